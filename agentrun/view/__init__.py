"""How runs are shown: a transcript as text, HTML or terminal output, and tables of rows.

Importing this room teaches `Transcript` to show itself (``print``, notebooks); it loads no
rich. `agentrun.view.terminal` does, and is imported by whoever prints.
"""

from __future__ import annotations

from agentrun.core.transcript import renderers
from agentrun.view.html import html
from agentrun.view.layout import plain

__all__ = ["html", "plain"]

renderers["text/plain"] = plain
renderers["text/html"] = html
