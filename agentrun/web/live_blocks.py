"""The transcript of a run in a browser: blocks with ids, of which only those that changed are sent.

A block is a turn, or what stands above, between or below the turns. A browser that has a view of
the run gets what makes it the present one: the blocks that have changed, that are new and that are
gone. If blocks have changed places, it gets all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentrun.view.html import Block
from agentrun.view.safe import Markup, element

__all__ = ["place_blocks", "replace_inside", "update_blocks"]


def place_blocks(blocks: Sequence[Block]) -> Markup:
    """All blocks, as they stand in the page of a run."""
    return element("div", *map(_place, blocks), class_="ar-root")


def update_blocks(before: Sequence[Block] | None, now: Sequence[Block]) -> Iterator[Markup]:
    """What turns the blocks that a browser has into the present ones. None: it is not known."""
    if before is None or not _goes_on(before, now):
        yield replace_inside("run", place_blocks(now))
        return
    known = {block.key: block.markup for block in before}
    for key in known.keys() - {block.key for block in now}:
        yield _change(key, "delete")
    new: list[Block] = []
    for block in now:
        if block.key not in known:
            new.append(block)
            continue
        if new:
            yield _change(block.key, "beforebegin", *map(_place, new))
            new = []
        if block.markup != known[block.key]:
            yield _change(block.key, "innerMorph", block.markup)


def replace_inside(place: str, content: Markup) -> Markup:
    """What htmx takes as: morph the inside of the element with this id into the content."""
    return _partial(place, "innerMorph", content)


def _change(key: str, way: str, *content: Markup) -> Markup:
    return _partial(f"run-{key}", way, *content)


def _partial(place: str, way: str, *content: Markup) -> Markup:
    return element("hx-partial", *content, **{"hx-target": f"#{place}", "hx-swap": way})


def _goes_on(before: Sequence[Block], now: Sequence[Block]) -> bool:
    """Whether the blocks that stay are in the same order, and the last one is among them."""
    kept = {block.key for block in before} & {block.key for block in now}
    orders = [[block.key for block in blocks if block.key in kept] for blocks in (before, now)]
    return orders[0] == orders[1] and now[-1].key in kept


def _place(block: Block) -> Markup:
    return element("div", block.markup, id=f"run-{block.key}")
