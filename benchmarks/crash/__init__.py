"""One refund agent in many frameworks, killed at every message: see `__main__`."""
