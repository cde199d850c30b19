"""Adapters that make the tools and sessions of agent frameworks recorded steps, one file each.

Nothing here is imported until a program imports it. An adapter uses only the public face: above all
`agentrun.acall`, which records a tool call that the framework makes. `mcp_server` is the other way
round, a face of its own: it offers agents, and reads the rows of their runs.
"""
