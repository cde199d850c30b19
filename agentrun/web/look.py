"""How a transcript looks in the pages: the options of the one renderer, and its style as a file.

The pages' content security policy allows no style inside a page.
"""

from __future__ import annotations

from dataclasses import replace

from agentrun.view.html import CSS, WHOLE, RenderOptions

__all__ = ["CSS", "LIVE", "SHOWN_BYTES"]

SHOWN_BYTES = 2_000_000  # of one run's HTML; entries beyond are counted, and can be exported

LIVE: RenderOptions = replace(WHOLE, styled=False, titled=False)
