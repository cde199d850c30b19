"""Deliberate defects, a file for each room of the package. `mutations.py` has all of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Mutation"]


@dataclass(frozen=True)
class Mutation:
    """One defect: in the definition ``where``, the words ``old`` become ``new``."""

    where: str  # a name, as `anchors.Definitions` says
    old: str  # stands there once; spaces, line breaks and comments do not count
    new: str  # further lines are indented from the line of `old`
    test: str  # FILE::NAME, below tests/
    tries: int = 1  # how often it is run, for a storm that shows the defect most of the time
    needs: str = ""  # a module that is not installed beside the others, if the test needs one
