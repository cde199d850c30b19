"""The notebooks, executed headless."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the Jupyter packages' own


@pytest.fixture(autouse=True)
def _environment(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRUN_HOME", str(new_home))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(os.sys.path))  # type: ignore[attr-defined]


def executed(name: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """What the cells of a notebook show, and every message of its kernel."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    messages: list[Any] = []

    class Client(NotebookClient):  # type: ignore[misc]
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            messages.append(msg)
            return super().process_message(msg, cell, cell_index)

    Client(notebook, timeout=180, kernel_name="python3").execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert not [out for out in outputs if out.get("name") == "stderr"]
    kinds = ("execute_result", "display_data")
    return [out.data for out in outputs if out.output_type in kinds], messages


def test_view_a_run_follows_it_and_shows_its_transcript() -> None:
    shown, messages = executed("view_a_run.ipynb")
    (transcript,) = (data for data in shown if "<details" in data.get("text/html", "")
                     and "· done ·" in data["text/plain"])  # fmt: skip
    assert "resumed by" in transcript["text/html"]
    assert "<script" not in transcript["text/html"]
    assert all(len(line) <= 80 for line in transcript["text/plain"].splitlines())
    # The displays of `follow` keep their last state. How often they are updated is a matter of
    # speed; the head is updated at least for the end of the run.
    followed = "".join(data.get("text/html", "") for data in shown if data is not transcript)
    assert "resumed by" in followed
    assert any(msg["msg_type"] == "update_display_data" for msg in messages)


def test_audit_with_sql_tells_what_the_tools_did() -> None:
    shown, _ = executed("audit_with_sql.ipynb")
    audits = "".join(data.get("text/html", "") for data in shown)
    for fact in ("book_pickup", "once", "happened", "reconcile (find_pickup)", "possibly billed"):
        assert fact in audits, fact
