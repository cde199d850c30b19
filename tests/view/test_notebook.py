"""The notebook, executed headless."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter packages' own
def test_the_notebook_views_a_resumed_run_and_audits_it(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTRUN_HOME", str(new_home))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(os.sys.path))  # type: ignore[attr-defined]
    notebook = nbformat.read(NOTEBOOKS / "view_and_audit.ipynb", as_version=4)
    NotebookClient(notebook, timeout=180, kernel_name="python3").execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    shown = [out.data for out in outputs if out.output_type in ("execute_result", "display_data")]
    (transcript,) = [data for data in shown if "resumed by" in data.get("text/html", "")]
    assert "<script" not in transcript["text/html"]
    assert all(len(line) <= 80 for line in transcript["text/plain"].splitlines())
    audits = "".join(data.get("text/html", "") for data in shown)
    for fact in ("book_pickup", "once", "happened", "reconcile (find_pickup)", "possibly billed"):
        assert fact in audits, fact
