"""Runs one double by name, without importing the rest of agentrun.

Started as a file, this module registers an empty package as `agentrun`. A double then starts in a
tenth of a second, and also starts when the rest of agentrun is broken.
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
