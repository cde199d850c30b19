"""`python -m agentrun`: the command line."""

from agentrun.cli import app

app(prog_name="agentrun")
