"""Registers how values show themselves by ``print`` and in notebooks.

`agentrun.public_face` imports this module, so whoever uses the public names has it. It does not
load rich. Only `agentrun.view.terminal` does, which is imported where something is printed.
"""

from __future__ import annotations

from agentrun.core.viewable import renderers
from agentrun.view.comparison import comparison_html, comparison_text
from agentrun.view.html import as_html
from agentrun.view.inbox import inbox_html, inbox_text
from agentrun.view.layout import as_text
from agentrun.view.redo_plan import redo_html, redo_text
from agentrun.view.run_list import (
    run_card,
    run_html,
    runs_html,
    runs_text,
    totals_html,
    totals_text,
)
from agentrun.view.single_step import step_html, step_text
from agentrun.view.tables import table_html, table_text

renderers["transcript", "text/plain"] = as_text
renderers["transcript", "text/html"] = as_html
renderers["comparison", "text/plain"] = comparison_text
renderers["comparison", "text/html"] = comparison_html
renderers["table", "text/plain"] = table_text
renderers["table", "text/html"] = table_html
renderers["runs", "text/plain"] = runs_text
renderers["runs", "text/html"] = runs_html
renderers["run", "text/plain"] = run_card
renderers["run", "text/html"] = run_html
renderers["inbox", "text/plain"] = inbox_text
renderers["inbox", "text/html"] = inbox_html
renderers["totals", "text/plain"] = totals_text
renderers["totals", "text/html"] = totals_html
renderers["step", "text/plain"] = step_text
renderers["step", "text/html"] = step_html
renderers["redo", "text/plain"] = redo_text
renderers["redo", "text/html"] = redo_html
