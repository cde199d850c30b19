"""Turns the values and exceptions of the agent's code into recorded JSON, and back unchanged."""
