"""Adapters that make the tools and sessions of agent frameworks recorded steps, one file each.

Nothing here is imported until a program imports it. An adapter uses only the public face: above all
`agentrun.acall`, which records a tool call that the framework makes.
"""
