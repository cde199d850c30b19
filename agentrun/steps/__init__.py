"""Steps: one recorded unit of a run, from the request to its outcome, with all kinds of steps."""
