"""Renders runs: a transcript as text, HTML, Markdown or terminal output, and tables of rows.

The package itself loads nothing, because a completed key needs no transcript.
"""
