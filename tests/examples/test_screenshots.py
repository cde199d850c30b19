"""The script that makes the pictures of the documentation still does so."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import pytest
from browser import CHROMIUM

SCRIPT = Path(__file__).parents[2] / "docs" / "make_screenshots.py"


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_pictures_can_be_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each view; the drawing of the terminal loads nothing and shows the resumes."""
    spec = importlib.util.spec_from_file_location("make_screenshots", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "IMAGES", tmp_path)
    monkeypatch.setenv("AGENTRUN_HOME", "")  # restored after the script has set its own
    monkeypatch.setenv("AGENTRUN_DATABASE_URL", "")
    script.make_screenshots()
    made = {file.name for file in tmp_path.iterdir()}
    assert made == {file.name for file in SCRIPT.with_name("images").iterdir()}
    for picture in tmp_path.glob("*.png"):
        width, height = struct.unpack(">II", picture.read_bytes()[16:24])
        assert width == 1000
        assert height > 500
    drawing = (tmp_path / "terminal.svg").read_text("utf-8")
    assert drawing.count("resumed") == 3
    assert "url(http" not in drawing
