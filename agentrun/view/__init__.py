"""Renders runs: a transcript as text, HTML, Markdown or terminal output, and tables of rows.

Importing this package registers the renderers of `Transcript` for ``print`` and for notebooks. It
does not load rich. Only `agentrun.view.terminal` does, which is imported where something is
printed.
"""

from __future__ import annotations

from agentrun.core.transcript import renderers
from agentrun.view.html import as_html
from agentrun.view.layout import as_text

__all__ = ["as_html", "as_text"]

renderers["text/plain"] = as_text
renderers["text/html"] = as_html
