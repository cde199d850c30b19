"""Runs one double by name, without loading the rest of agentrun.

Started as a file, this stands a bare package in for `agentrun`: a double then starts in a
tenth of a second, and starts at all when what it is to test does not.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType

if "agentrun" not in sys.modules:
    bare = ModuleType("agentrun")
    bare.__path__ = [str(Path(__file__).parents[1])]
    sys.modules["agentrun"] = bare
double = sys.argv.pop(1)
runpy.run_module(f"agentrun.testing.{double}", run_name="__main__", alter_sys=True)
