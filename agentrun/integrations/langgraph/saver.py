"""`DurableSaver`: a checkpointer whose reads and writes inside a run are recorded steps."""

from __future__ import annotations

import copy
import inspect
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, cast

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver

import agentrun
from agentrun.core.events import Effect
from agentrun.integrations.langgraph import checkpoint_ids
from agentrun.integrations.langgraph.packing import pack, unpack

__all__ = ["DurableSaver"]

_list = list  # `list` is a method below
_ADDRESS = ("thread_id", "checkpoint_ns", "checkpoint_id")


class DurableSaver(BaseCheckpointSaver[Any]):
    """Any checkpointer of LangGraph, made right for runs that crash and go on.

    A resumed run executes its graph again from the first node. With a plain checkpointer that
    outlives the process, the graph would find what the crashed process saved and take another way.
    With this one, a resumed run reads what it read before and saves nothing twice. Outside a run it
    is the inner checkpointer and nothing else.

    agentrun itself keeps what a run has done, so ``durability="exit"`` loses nothing: LangGraph
    then saves once for each call of the graph, and not after every node.

    What it does not do:

    * Two runs must not execute a graph on one thread at the same time, as with any checkpointer.
    * Each read is stored in the journal with the whole state of the thread.
    * LangGraph gives messages without an id a random one. It may be another one after a resume, so
      the code of a run must not send such an id back to the graph, as `RemoveMessage` does.
    * Caches and stores (`BaseCache`, `BaseStore`) are not recorded.

    Args:
        inner: the checkpointer that stores, such as a `SqliteSaver`, an `AsyncSqliteSaver` or an
            `InMemorySaver`. Of an `InMemorySaver`, a resumed run restores what the run used.

    Raises:
        ConfigError: this version of langgraph draws the ids of checkpoints in an unknown way.

    Example:
        >>> compiled = graph.compile(checkpointer=DurableSaver(SqliteSaver(connection)))
    """

    def __init__(self, inner: BaseCheckpointSaver[Any]) -> None:
        super().__init__(serde=inner.serde)
        checkpoint_ids.install()
        self.inner = inner
        # Its content is lost with the process, so a resume has to save again what it had saved.
        self._is_volatile = isinstance(inner, InMemorySaver)

    def __getattr__(self, name: str) -> Any:
        """What only the inner checkpointer has, such as ``setup``."""
        if name == "inner":  # while a copy is being made
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def config_specs(self) -> list[Any]:
        """The configuration options of the inner checkpointer."""
        return self.inner.config_specs

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> DurableSaver:
        """A copy whose serializer accepts these types too, as LangGraph asks for it."""
        made = copy.copy(self)
        made.inner = self.inner.with_allowlist(extra_allowlist)
        made.serde = made.inner.serde
        return made

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The next version of a channel. Its random part is the same on a resume."""
        version = self.inner.get_next_version(current, channel)
        if isinstance(version, str) and agentrun.current_run() is not None:
            count, point, _ = version.partition(".")
            return f"{count}.{agentrun.rng().random():016}" if point else version
        return version

    # -- reads -------------------------------------------------------------------------------------

    def get_tuple(self, config: Any) -> CheckpointTuple | None:
        """The checkpoint, as it was when this run first read it here."""
        if not _begin():
            return self.inner.get_tuple(config)

        def load() -> Any:
            return _fields(self.inner.get_tuple(config))

        made, is_new = self._record("read", "load checkpoint", _address(config), load)
        found = _checkpoint(made)
        if found is not None:
            checkpoint_ids.claim(found.checkpoint["id"])
            is_lost = self._is_volatile and not is_new
            if is_lost and self.inner.get_tuple(found.config) is None:
                self.inner.put(*_as_put(found))
                for task_id, writes in _writes_by_task(found).items():
                    self.inner.put_writes(found.config, writes, task_id)
        return found

    async def aget_tuple(self, config: Any) -> CheckpointTuple | None:
        """Like `get_tuple`."""
        if not _begin():
            return await self.inner.aget_tuple(config)

        async def load() -> Any:
            return _fields(await self.inner.aget_tuple(config))

        made, is_new = await self._arecord("read", "load checkpoint", _address(config), load)
        found = _checkpoint(made)
        if found is not None:
            checkpoint_ids.claim(found.checkpoint["id"])
            if (
                self._is_volatile
                and not is_new
                and await self.inner.aget_tuple(found.config) is None
            ):
                await self.inner.aput(*_as_put(found))
                for task_id, writes in _writes_by_task(found).items():
                    await self.inner.aput_writes(found.config, writes, task_id)
        return found

    def list(
        self,
        config: Any,
        *,
        filter: dict[str, Any] | None = None,
        before: Any = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """The checkpoints of a thread, as they were when this run first listed them here."""
        query = {**_address(config), "filter": filter, "before": _address(before), "limit": limit}

        def read() -> Iterator[CheckpointTuple]:
            return self.inner.list(config, filter=filter, before=before, limit=limit)

        if agentrun.current_run() is None:
            return read()
        made, _ = self._record(
            "read", "list checkpoints", query, lambda: [_fields(found) for found in read()]
        )
        return iter([CheckpointTuple(*fields) for fields in made])

    async def alist(
        self,
        config: Any,
        *,
        filter: dict[str, Any] | None = None,
        before: Any = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Like `list`."""
        query = {**_address(config), "filter": filter, "before": _address(before), "limit": limit}

        async def read() -> Any:
            found = self.inner.alist(config, filter=filter, before=before, limit=limit)
            return [_fields(one) async for one in found]

        if agentrun.current_run() is None:
            made = await read()
        else:
            made, _ = await self._arecord("read", "list checkpoints", query, read)
        for fields in made:
            yield CheckpointTuple(*fields)

    def get_delta_channel_history(
        self, *, config: Any, channels: Sequence[str]
    ) -> Mapping[str, Any]:
        """What a `DeltaChannel` is made of, as it was when this run first read it here."""

        def read() -> Any:
            return self.inner.get_delta_channel_history(config=config, channels=channels)

        if agentrun.current_run() is None:
            return cast("Mapping[str, Any]", read())
        query = {**_address(config), "channels": [*channels]}
        return cast("Mapping[str, Any]", self._record("read", "load channels", query, read)[0])

    async def aget_delta_channel_history(
        self, *, config: Any, channels: Sequence[str]
    ) -> Mapping[str, Any]:
        """Like `get_delta_channel_history`."""

        async def read() -> Any:
            return await self.inner.aget_delta_channel_history(config=config, channels=channels)

        if agentrun.current_run() is None:
            return cast("Mapping[str, Any]", await read())
        query = {**_address(config), "channels": [*channels]}
        made, _ = await self._arecord("read", "load channels", query, read)
        return cast("Mapping[str, Any]", made)

    # -- writes ------------------------------------------------------------------------------------

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        """Save a checkpoint, once."""

        def save() -> Any:
            return _reduced(self.inner.put(config, checkpoint, metadata, new_versions))

        return self._save(checkpoint["id"], "save checkpoint", _address(config), save)

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        """Like `put`."""

        async def save() -> Any:
            return _reduced(await self.inner.aput(config, checkpoint, metadata, new_versions))

        return await self._asave(checkpoint["id"], "save checkpoint", _address(config), save)

    def put_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save what a task of the graph wrote, once."""

        def save() -> None:
            _put_writes(self.inner.put_writes, config, writes, task_id, task_path)

        address = _address(config)
        query = {**address, "task_id": task_id, "channels": [channel for channel, _ in writes]}
        self._save(address["checkpoint_id"], "save writes", query, save)

    async def aput_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Like `put_writes`."""

        async def save() -> None:
            await _put_writes(self.inner.aput_writes, config, writes, task_id, task_path)

        address = _address(config)
        query = {**address, "task_id": task_id, "channels": [channel for channel, _ in writes]}
        await self._asave(address["checkpoint_id"], "save writes", query, save)

    def delete_thread(self, thread_id: str) -> None:
        """Delete all of a thread, once."""
        self._change("delete thread", {"thread_id": thread_id}, "delete_thread", thread_id)

    async def adelete_thread(self, thread_id: str) -> None:
        """Like `delete_thread`."""
        await self._achange("delete thread", {"thread_id": thread_id}, "adelete_thread", thread_id)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete what LangGraph's runs with these ids saved, once."""
        self._change("delete runs", {"run_ids": [*run_ids]}, "delete_for_runs", run_ids)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Like `delete_for_runs`."""
        await self._achange("delete runs", {"run_ids": [*run_ids]}, "adelete_for_runs", run_ids)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread, once."""
        pair = (source_thread_id, target_thread_id)
        self._change("copy thread", {"threads": [*pair]}, "copy_thread", *pair)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Like `copy_thread`."""
        pair = (source_thread_id, target_thread_id)
        await self._achange("copy thread", {"threads": [*pair]}, "acopy_thread", *pair)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete old checkpoints of threads, once."""
        query = {"threads": [*thread_ids], "strategy": strategy}
        self._change("prune threads", query, "prune", thread_ids, strategy=strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Like `prune`."""
        query = {"threads": [*thread_ids], "strategy": strategy}
        await self._achange("prune threads", query, "aprune", thread_ids, strategy=strategy)

    # -- steps -------------------------------------------------------------------------------------

    def _record(
        self, effect: Effect, name: str, query: dict[str, Any], act: Callable[[], Any]
    ) -> tuple[Any, bool]:
        """What ``act`` returns, as a recorded step; and whether it was called just now."""
        is_new = False

        def perform(query: dict[str, Any]) -> Any:
            nonlocal is_new
            is_new = True
            return pack(act(), self.serde)

        made = agentrun.step(effect=effect, name=name)(perform)(query)
        return unpack(made, self.serde), is_new

    async def _arecord(
        self, effect: Effect, name: str, query: dict[str, Any], act: Callable[[], Awaitable[Any]]
    ) -> tuple[Any, bool]:
        is_new = False

        async def perform(query: dict[str, Any]) -> Any:
            nonlocal is_new
            is_new = True
            return pack(await act(), self.serde)

        made = await agentrun.step(effect=effect, name=name)(perform)(query)
        return unpack(made, self.serde), is_new

    def _save(
        self, checkpoint_id: str, name: str, query: dict[str, Any], save: Callable[[], Any]
    ) -> Any:
        """Perform ``save`` as a step of the run to which the checkpoint belongs.

        LangGraph saves from threads that it begins in no fixed order, so each save is found by
        what it saves and not by its place.
        """
        run = checkpoint_ids.run_of(checkpoint_id)
        if run is None:
            return save()
        with agentrun.branch(_branch_name(checkpoint_id, name, query), of=run):
            made, is_new = self._record("idempotent", name, query, save)
        if self._is_volatile and not is_new:
            save()
        return made

    async def _asave(
        self,
        checkpoint_id: str,
        name: str,
        query: dict[str, Any],
        save: Callable[[], Awaitable[Any]],
    ) -> Any:
        run = checkpoint_ids.run_of(checkpoint_id)
        if run is None:
            return await save()
        with agentrun.branch(_branch_name(checkpoint_id, name, query), of=run):
            made, is_new = await self._arecord("idempotent", name, query, save)
        if self._is_volatile and not is_new:
            await save()
        return made

    def _change(
        self, name: str, query: dict[str, Any], method: str, *args: Any, **options: Any
    ) -> None:
        def change() -> Any:
            return getattr(self.inner, method)(*args, **options)

        is_new = False
        if agentrun.current_run() is not None:
            _, is_new = self._record("idempotent", name, query, change)
        if not is_new and (self._is_volatile or agentrun.current_run() is None):
            change()

    async def _achange(
        self, name: str, query: dict[str, Any], method: str, *args: Any, **options: Any
    ) -> None:
        async def change() -> Any:
            return await getattr(self.inner, method)(*args, **options)

        is_new = False
        if agentrun.current_run() is not None:
            _, is_new = await self._arecord("idempotent", name, query, change)
        if not is_new and (self._is_volatile or agentrun.current_run() is None):
            await change()


def _begin() -> bool:
    """Whether the calling code is in a run; from here on, its graph's ids are recorded."""
    run = agentrun.current_run()
    if run is not None:
        checkpoint_ids.begin(run)
    return run is not None


def _address(config: Any) -> dict[str, Any]:
    """Which checkpoint a config means. All else in it is objects of this process."""
    given = (config or {}).get("configurable", {})
    return {name: given.get(name) for name in _ADDRESS}


def _reduced(config: Any) -> Any:
    """A config with the address of a checkpoint and nothing else."""
    if config is None:
        return None
    address = _address(config).items()
    return {"configurable": {name: value for name, value in address if value is not None}}


def _fields(found: CheckpointTuple | None) -> _list[Any] | None:
    if found is None:
        return None
    config, checkpoint, metadata, parent, writes = found
    return [_reduced(config), checkpoint, metadata, _reduced(parent), writes]


def _checkpoint(fields: Any) -> CheckpointTuple | None:
    return None if fields is None else CheckpointTuple(*fields)


def _as_put(found: CheckpointTuple) -> tuple[Any, Any, Any, Any]:
    """The arguments of `put` that save a checkpoint whole."""
    address = {**_address(found.config), "checkpoint_id": None}
    config = found.parent_config or {"configurable": address}
    return config, found.checkpoint, found.metadata, found.checkpoint["channel_versions"]


def _writes_by_task(found: CheckpointTuple) -> dict[str, _list[tuple[str, Any]]]:
    writes: dict[str, _list[tuple[str, Any]]] = {}
    for task_id, channel, value in found.pending_writes or ():
        writes.setdefault(task_id, []).append((channel, value))
    return writes


def _put_writes(put: Any, config: Any, writes: Any, task_id: str, task_path: str) -> Any:
    """Call the inner checkpointer. Older ones do not know ``task_path``."""
    if "task_path" in inspect.signature(put).parameters:
        return put(config, writes, task_id, task_path)
    return put(config, writes, task_id)


def _branch_name(checkpoint_id: str, name: str, query: dict[str, Any]) -> str:
    of = [query["task_id"], *query["channels"]] if "task_id" in query else []
    return " ".join([name, checkpoint_id, *of])
