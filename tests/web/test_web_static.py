"""The files of others that the pages serve are what their authors published."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import agentrun.web

VENDOR = Path(agentrun.web.__file__).parent / "static" / "vendor"


def test_files_of_others_are_unchanged_and_have_their_licences() -> None:
    listed = {}
    for line in (VENDOR / "SHA256SUMS").read_text("utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in VENDOR.iterdir()
        if file.name not in ("SHA256SUMS", "README.md")
    }
    assert found == listed
    assert {"htmx-LICENSE.txt", "uPlot-LICENSE.txt"} < set(listed)


def test_templates_never_switch_escaping_off() -> None:
    templates = (VENDOR.parents[1] / "templates").glob("*.html")
    for file in templates:
        text = file.read_text("utf-8")
        assert not re.search(
            r"\|\s*safe\b|autoescape|\bstyle=|\bon[a-z]+=|<style|javascript:", text
        )
        assert "<script>" not in text, file.name


def test_htmx_evaluates_nothing() -> None:
    """Its attributes that hold code are not used, and the policy would bar them."""
    base = (VENDOR.parents[1] / "templates" / "base.html").read_text("utf-8")
    settings = json.loads(re.findall(r"name=\"htmx-config\" content='(.*?)'", base)[0])
    assert settings["includeIndicatorCSS"] is False
    assert settings["extensions"] == "sse"
    for file in (VENDOR.parents[1] / "templates").glob("*.html"):
        assert "hx-on" not in file.read_text("utf-8")
        assert "js:" not in file.read_text("utf-8")
