"""False positives, counted: of source files of other projects, how many hold something masked.

At most 0.02 % of 20,000 files may, or of as many as are installed. A share of them is searched by
`tests/core/test_ordinary_files.py` in every run of the suite.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from ordinary import masked, sources

if TYPE_CHECKING:
    from matrix import Proof

ALL, BATCH, SHARE = 20_000, 500, 3  # files in all, and of a case; cases of a bounded run
MOST = 0.0002  # of the files may hold something masked


@pytest.mark.long
def test_of_20000_ordinary_files_4_hold_something_masked_at_most(proof: Proof) -> None:
    files = sources()
    random.Random(11).shuffle(files)
    files = files[:ALL]
    batches = {f"{start:05}": files[start : start + BATCH] for start in range(0, len(files), BATCH)}
    found: dict[str, list[str]] = {}
    searched = 0
    for case in proof.cases("false positives", list(batches), SHARE):
        with case:
            batch = batches[case.name]
            here = masked(batch)
            found |= here
            searched += len(batch)
            case.count(files=len(batch), masked=len(here))
    assert len(found) <= max(1, MOST * searched), found
