"""Compares the model requests of a resumed run with those of an undisturbed run, byte by byte.

A provider caches the computation for the beginning of a request, and charges about a tenth for it
if the next request begins with the same bytes. A request of an agent normally repeats the request
before it, except for some bytes at the end of that request. Undisturbed runs show how many bytes.
If a resumed run repeats fewer bytes, its prefix has changed: the provider's cache misses, and the
difference is billed in full. This difference is what `Change.bytes` counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from agentrun.core.history import scope_of
from agentrun.testing.ledger import Entry

__all__ = ["Change", "Prefixes", "compare_prefixes"]

Line = tuple[str, str]  # a run, and a scope in it; its model requests follow one another


class _SentStep(Protocol):
    run: str
    number: int
    kind: str
    ident: str


@dataclass(frozen=True)
class Change:
    """One request whose prefix has changed."""

    run: str
    key: str  # of the step
    bytes: int


@dataclass(frozen=True)
class Prefixes:
    """The pairs of requests that were compared, their bytes, and the changed prefixes."""

    requests: int
    bytes: int
    changes: tuple[Change, ...]

    @property
    def changed_bytes(self) -> int:
        """The changed bytes of all requests together."""
        return sum(change.bytes for change in self.changes)


def compare_prefixes(
    requests: Sequence[Entry],
    steps: Mapping[str, _SentStep],
    calm: Iterable[str],
    killed: Iterable[str],
) -> Prefixes:
    """Compare the requests of the ``killed`` runs, by key, with those of the ``calm`` ones."""
    sent = _requests_by_line(requests, steps)
    usual: dict[tuple[str, int], int] = {}
    for run in calm:
        for (_, scope), asked in _lines_of(sent, run):
            for nth, (one, other) in enumerate(pairwise(asked)):
                at = (scope, nth)
                usual[at] = max(
                    usual.get(at, 0), _bytes_after_common_prefix(one[1][-1], other[1][0])
                )
    number = size = 0
    changes: list[Change] = []
    for run in killed:
        for (_, scope), asked in _lines_of(sent, run):
            # A step that was sent again after the kill must send the same bytes.
            for key, texts in asked:
                number, size = number + len(texts) - 1, size + sum(map(len, texts[1:]))
                changes += [
                    Change(run, key, n)
                    for t in texts[1:]
                    if (n := _bytes_after_common_prefix(texts[0], t))
                ]
            for nth, (one, (key, texts)) in enumerate(pairwise(asked)):
                if (expected := usual.get((scope, nth))) is None:
                    continue
                number, size = number + 1, size + len(one[1][-1])
                lost = _bytes_after_common_prefix(one[1][-1], texts[0]) - expected
                changes += [Change(run, key, lost)] if lost > 0 else []
    return Prefixes(number, size, tuple(changes))


_Asked = list[tuple[str, list[bytes]]]  # steps in order: the key, and the body of each attempt


def _requests_by_line(
    requests: Sequence[Entry], steps: Mapping[str, _SentStep]
) -> dict[Line, _Asked]:
    """The model requests of each line, in the order of their steps."""
    texts: dict[str, list[bytes]] = {}
    for entry in requests:
        step = steps.get(entry.idempotency_key or "")
        if step is not None and step.kind == "model" and entry.text is not None:
            texts.setdefault(entry.idempotency_key or "", []).append(entry.text.encode())
    lines: dict[Line, _Asked] = {}
    for key in sorted(texts, key=lambda key: steps[key].number):
        step = steps[key]
        lines.setdefault((step.run, scope_of(step.ident)), []).append((key, texts[key]))
    return lines


def _lines_of(sent: dict[Line, _Asked], run: str) -> Iterator[tuple[Line, _Asked]]:
    """The lines of a run and of its child runs.

    A child run is named by its path below the run, which is equal in two runs of one agent.
    """
    for (other, scope), asked in sent.items():
        if f"{other}/".startswith(f"{run}/"):
            yield (other, other.removeprefix(run) + scope), asked


def _bytes_after_common_prefix(one: bytes, other: bytes) -> int:
    """How many bytes of ``one`` follow the common prefix of both."""
    if other.startswith(one):
        return 0
    pairs = enumerate(zip(one, other, strict=False))
    return len(one) - next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
