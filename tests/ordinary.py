"""Source files of other projects, and which of them hold something that masking takes for a secret.

Files that hold a whole credential, made up for documentation or tests, are no false positives: they
are named here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agentrun.core.secrets import MASK, mask

LARGEST = 60_000  # bytes of a file
ROOTS = [Path(pytest.__file__).parents[1], Path("/usr/lib/python3")]


# The tokens of OAuth's specification, AWS's documented keys, basic credentials of test servers.
SAMPLES = (
    "/oauthlib/", "/moto/", "/tornado/test/", "/litellm/proxy/custom_auth_auto.py",
    "/botocore/data/",
)  # fmt: skip


def sources() -> list[Path]:
    """Python files below the roots, in an order that is the same each time."""
    found = [path for root in ROOTS for path in sorted(root.rglob("*.py"))]
    plain = [path for path in found if not any(sample in str(path) for sample in SAMPLES)]
    return [path for path in plain if 0 < path.stat().st_size < LARGEST]


def masked(paths: list[Path]) -> dict[str, list[str]]:
    """The files of which something is masked, and what stands before each mask."""
    found: dict[str, list[str]] = {}
    for path in paths:
        text = path.read_bytes().decode("utf-8", "replace")
        shown = mask.text(text)
        if shown is not text:
            found[str(path)] = [
                shown[max(0, m.start() - 40) : m.end()] for m in MASK.finditer(shown)
            ]
    return found
