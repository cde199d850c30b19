"""Large values outside the database: blobs in a folder or a bucket, through obstore.

A blob is durable before the row that names it is sent. Its name, ``FOLDER/RUN/EPOCH-CLAIM/DIGEST``,
belongs to the one claim of a run under which that row is appended (epoch 0: to the call that
creates the run), so that of a blob without a row it can be told whether one may still come.

The library neither syncs files nor shows what a death in a put leaves of one: that is done here. It
does not survive a fork.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import UUID

from agentrun.core import points
from agentrun.core.codec import LIMIT, Payload
from agentrun.core.errors import ConfigError, StoreUnavailable
from agentrun.core.log import logger
from agentrun.store.sending import patiently, wait_for

__all__ = ["ABANDONED", "Blob", "Blobs", "fetch", "is_large"]

T = TypeVar("T")

ABANDONED = timedelta(days=1)  # what was begun as long ago, and has not ended, never will
_PAGE = 1_000  # names in a listing, and in a deletion
_NAME = re.compile(r"[^/]+/([0-9a-f-]{36})/(\d+)-[0-9a-f]+/([0-9a-f]{32})")
_DENIED = re.compile(r"\(os error (?:1|13|30)\)")  # EPERM, EACCES, EROFS

_process: int | None = None  # in which the library's threads are


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that was found, by what its name says."""

    name: str
    run_id: UUID
    epoch: int
    digest: str
    modified: datetime


def is_large(payload: Payload) -> bool:
    """Whether a payload is put outside; exact bytes may be few."""
    return payload.size > LIMIT


def fetch(blobs: Blobs | None, run_id: UUID, row: Mapping[str, Any]) -> bytes:
    """What a row of `payloads` names. Raises StoreUnavailable where it is not to be had."""
    if blobs is None:
        raise StoreUnavailable(
            f"a value of run {run_id}, of {row['size']:,} bytes, lies outside the database as the "
            f"blob {row['blob']}, and this process has no blob store: give it that of the run's "
            "worker, by AGENTRUN_BLOBS, agentrun.connect(blobs=…) or agentrun --blobs"
        )
    return blobs.get(row["blob"])


class Blobs:
    """The blobs of one database.

    ``folder`` keeps apart what several databases have in one place. Credentials, region and
    endpoint come from the library's environment (AWS_…) and are kept nowhere.
    """

    def __init__(self, url: str, folder: UUID) -> None:
        self.url = url
        self.closed = False  # nothing is waited for any more
        self._folder = str(folder)
        self._library, self._store, self._root = _open(url)

    # -- one blob --------------------------------------------------------------------------------

    def keep(self, payload: Payload, run_id: UUID, claim: str) -> Payload:
        """Put a large payload outside, durably, and return it with its place, for its row.

        Waits, and says so, while the store is away. A store that refuses, or that is away when
        the database is closed, loses nothing: the payload is kept in the database.
        """
        if not is_large(payload):
            return payload
        name = f"{self._folder}/{run_id}/{claim}/{payload.digest}"
        for attempt in patiently():
            try:
                points.reach("put", "before")
                self._put(name, payload.zstd)
                points.reach("put", "after")
            except StoreUnavailable as error:
                why: Exception = error
                if self.closed:
                    break
                wait_for("blob store", error, attempt)
            except ConfigError as error:
                why = error
                break
            else:
                return replace(payload, blob=name)
        logger.error("%d bytes of run %s are kept in the database: %s", payload.size, run_id, why)
        return payload

    def get(self, name: str) -> bytes:
        """The bytes of a blob; waits as `keep` does. Raises StoreUnavailable if it is not there."""
        for attempt in patiently():
            try:
                return self._ask(lambda: bytes(self._library.get(self._store, name).bytes()))
            except FileNotFoundError as error:
                raise StoreUnavailable(
                    f"the blob {name} is not in {self.url}. Is that where it was put? "
                    "See AGENTRUN_BLOBS or agentrun.connect(blobs=…)"
                ) from error
            except ConfigError as error:
                raise StoreUnavailable(f"the blob {name} cannot be read: {error}") from error
            except StoreUnavailable as error:
                if self.closed:
                    raise
                wait_for("blob store", error, attempt)
        raise AssertionError("unreachable: patience has no end")

    def prove(self) -> None:
        """Write something. Raises ConfigError, or StoreUnavailable, before a run depends on it."""
        self._put(f"{self._folder}/writable", b"")

    def _put(self, name: str, data: bytes) -> None:
        try:
            self._ask(partial(self._library.put, self._store, name, data))
            if self._root is not None:
                _sync(self._root, self._root / name)
        except FileNotFoundError as error:
            raise ConfigError(f"there is no {self.url}: {_said(error)}") from error
        except OSError as error:
            raise StoreUnavailable(f"{self.url} cannot be synced: {error}") from error

    # -- all of them -----------------------------------------------------------------------------

    def pages(self) -> Iterator[list[Blob]]:
        """What is there, page by page. Raises ConfigError and StoreUnavailable."""
        pages = iter(self._library.list(self._store, self._folder, chunk_size=_PAGE))
        while (page := self._ask(partial(next, pages, None))) is not None:
            named = [(_NAME.fullmatch(found["path"]), found["last_modified"]) for found in page]
            yield [
                Blob(name[0], UUID(name[1]), int(name[2]), name[3], modified)
                for name, modified in named
                if name is not None
            ]

    def delete(self, names: Collection[str]) -> None:
        """Delete blobs, at most a page; one that is gone already is none the less."""
        # Files go one by one: the library stops at the first that is not there.
        for batch in [[name] for name in names] if self._root is not None else [list(names)]:
            with suppress(FileNotFoundError):
                self._ask(partial(self._library.delete, self._store, batch))

    def delete_torn(self, before: datetime) -> None:
        """Delete what deaths in the middle of a put left of files; the library does not list it."""
        if self._root is None:
            return
        for file in (self._root / self._folder).rglob("*#*"):
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < before.timestamp():
                    file.unlink()

    def _ask(self, call: Callable[[], T]) -> T:
        """Call the library. FileNotFoundError has a meaning of its own to each caller."""
        _enter()
        try:
            return call()
        except self._library.exceptions.BaseError as error:
            said, away = _said(error), self._library.exceptions.GenericError
            if isinstance(error, away) and not _DENIED.search(said):
                raise StoreUnavailable(f"{self.url} is away: {said}") from error
            raise ConfigError(f"{self.url} refuses: {said}") from error


def _open(url: str) -> tuple[Any, Any, Path | None]:
    """The library, its store, and the folder of a store of files. Raises ConfigError."""
    try:
        import obstore
        from obstore.store import LocalStore, S3Store
    except ImportError as error:
        raise ConfigError(
            f"blobs={url} needs the package obstore: pip install 'agentrun-harness[blobs]'"
        ) from error
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(
            "a blob store is named by its place alone; credentials, region and endpoint come from "
            "the environment: AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL, …"
        )
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and path.strip("/"):
        try:
            return obstore, LocalStore(path, mkdir=True, automatic_cleanup=True), Path(path)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise ConfigError(f"there can be no folder {path}: {_said(error)}") from error
    if parts.scheme == "s3" and parts.netloc:
        prefix = path.strip("/") or None
        return obstore, S3Store(parts.netloc, prefix=prefix, retry_config={"max_retries": 0}), None
    raise ConfigError(f"blobs={url}: give file:///FOLDER or s3://BUCKET/PREFIX")


def _enter() -> None:
    global _process
    if _process is None:
        _process = os.getpid()
    elif _process != os.getpid():
        raise ConfigError(
            "this process was forked from one that used the blob store, whose library does not "
            "survive that; start it with 'spawn', or fork before the first run"
        )


def _sync(root: Path, file: Path) -> None:
    """Make a new file durable, and the folders that lead to it."""
    for path in (file, *[folder for folder in file.parents if folder.is_relative_to(root)]):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _said(error: Exception) -> str:
    """What the library says, for people."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:400]
