"""How runs are shown: a transcript as text, HTML or terminal output, and tables of rows.

Importing this room teaches `Transcript` to show itself (``print``, notebooks); it loads no
rich. `agentrun.view.terminal` does, and is imported by whoever prints.
"""

from __future__ import annotations

from agentrun.core.transcript import renderers
from agentrun.view.html import as_html
from agentrun.view.layout import as_text

__all__ = ["as_html", "as_text"]

renderers["text/plain"] = as_text
renderers["text/html"] = as_html
