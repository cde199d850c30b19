"""How a run begins, goes on, ends and changes hands."""
