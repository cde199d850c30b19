"""Tests that take long: they carry the mark `slow`, and the default run leaves them out.

`slow.txt` lists them by file and function. The list is measured: this command writes it anew from
the report of a run of all tests, on a machine that does nothing else.

    pytest -n 2 -m "not long" --junitxml=report.xml && python tests/slow.py report.xml
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

LIST = Path(__file__).with_name("slow.txt")
ONE, ALL = 1.3, 4.0  # seconds: of one case of a test, and of all its cases together


def slow_tests() -> frozenset[str]:
    """The listed tests, as ``folder/file.py::function``."""
    return frozenset(LIST.read_text("utf-8").split())


def name_of(nodeid: str) -> str:
    """A test's name in the list, without its parameters."""
    return nodeid.removeprefix("tests/").partition("[")[0]


def measured(report: Path) -> list[str]:
    """The tests that took long, by a JUnit report."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for case in ET.parse(report).iter("testcase"):
        file = str(case.get("classname")).removeprefix("tests.").replace(".", "/")
        seconds[name_of(f"{file}.py::{case.get('name')}")].append(float(case.get("time", 0)))
    return sorted(name for name, took in seconds.items() if max(took) > ONE or sum(took) > ALL)


if __name__ == "__main__":
    LIST.write_text("\n".join(measured(Path(sys.argv[1]))) + "\n", "utf-8")
