"""Large values outside the database: blobs in a folder or a bucket, through the library obstore.

A blob is durable before the row that names it is sent. So a row never names a missing blob, but a
crash may leave a blob without a row. `agentrun prune` removes such a blob once no row can follow.
To decide that, it reads the blob's name, ``FOLDER/RUN/EPOCH-CLAIM/DIGEST``: the row can only be
appended by that claim of the run (epoch 0: by the call that creates the run).

The library does not sync files, and does not list the partial file that a crash in a put leaves.
Both are done here. The library does not survive a fork.
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
from agentrun.store.patience import log_waiting, retry_attempts

__all__ = ["ABANDONED", "Blob", "Blobs", "fetch", "is_large"]

T = TypeVar("T")

ABANDONED = timedelta(days=1)  # age at which an unfinished put or an uncreated run counts as dead
_PAGE = 1_000  # names in a listing, and in a deletion
_NAME = re.compile(r"[^/]+/([0-9a-f-]{36})/(\d+)-[0-9a-f]+/([0-9a-f]{32})")
_DENIED = re.compile(r"\(os error (?:1|13|30)\)")  # EPERM, EACCES, EROFS

_process: int | None = None  # the pid of the process that the library's threads run in


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that was listed, with the parts of its name."""

    name: str
    run_id: UUID
    epoch: int
    digest: str
    modified: datetime


def is_large(payload: Payload) -> bool:
    """Whether a payload is stored as a blob. (Exact bytes are payloads too, and may be small.)"""
    return payload.size > LIMIT


def fetch(blobs: Blobs | None, run_id: UUID, row: Mapping[str, Any]) -> bytes:
    """The bytes of the blob in a row of `payloads`. Raises StoreUnavailable if it is unreadable."""
    if blobs is None:
        raise StoreUnavailable(
            f"a value of run {run_id}, of {row['size']:,} bytes, lies outside the database as the "
            f"blob {row['blob']}, and this process has no blob store: give it that of the run's "
            "worker, by AGENTRUN_BLOBS, agentrun.connect(blobs=…) or agentrun --blobs"
        )
    return blobs.get(row["blob"])


class Blobs:
    """The blobs of one database.

    ``folder`` separates the blobs of several databases in one place. Credentials, region and
    endpoint come from environment variables that the library reads (AWS_…), and are not stored.
    """

    def __init__(self, url: str, folder: UUID) -> None:
        self.url = url
        self.closed = False  # no call waits for the store any more
        self._folder = str(folder)
        self._library, self._store, self._root = _open(url)
        if self._root is not None:  # the files are as confidential as the database
            private = self._root / self._folder
            with suppress(OSError):  # `prove` and `keep` will report what is wrong
                private.mkdir(mode=0o700, exist_ok=True)
                private.chmod(0o700)

    # -- one blob --------------------------------------------------------------------------------

    def keep(self, payload: Payload, run_id: UUID, claim: str) -> Payload:
        """Store a large payload as a blob, durably; return the payload with the blob's name.

        While the store is away this waits, and logs that it waits. If the store refuses, or is away
        when the database is closed, the payload is stored in the database instead.
        """
        if not is_large(payload):
            return payload
        name = f"{self._folder}/{run_id}/{claim}/{payload.digest}"
        why: Exception | None = None
        for attempt in retry_attempts():
            try:
                points.reach("put", "before")
                self._put(name, payload.zstd)
                points.reach("put", "after")
            except StoreUnavailable as error:
                why = error
                if self.closed:
                    break
                log_waiting("blob store", error, attempt)
            except ConfigError as error:
                why = error
                break
            else:
                return replace(payload, blob=name)
        logger.error("%d bytes of run %s are kept in the database: %s", payload.size, run_id, why)
        return payload

    def get(self, name: str) -> bytes:
        """The bytes of a blob. Waits as `keep` does. Raises StoreUnavailable if it is missing."""
        for attempt in retry_attempts():
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
                log_waiting("blob store", error, attempt)
        raise AssertionError("unreachable: retry_attempts never ends")

    def prove(self) -> None:
        """Write a test blob, before a run needs the store. Raises ConfigError, StoreUnavailable."""
        self._put(f"{self._folder}/writable", b"")

    def _put(self, name: str, data: bytes) -> None:
        try:
            self._ask(partial(self._library.put, self._store, name, data))
            if self._root is not None:
                (self._root / name).chmod(0o600)
                _sync(self._root, self._root / name)
        except FileNotFoundError as error:
            raise ConfigError(f"there is no {self.url}: {_error_text(error)}") from error
        except OSError as error:
            raise StoreUnavailable(f"{self.url} cannot be synced: {error}") from error

    # -- all of them -----------------------------------------------------------------------------

    def pages(self) -> Iterator[list[Blob]]:
        """List the blobs, page by page. Raises ConfigError and StoreUnavailable."""
        pages = iter(self._library.list(self._store, self._folder, chunk_size=_PAGE))
        while (page := self._ask(partial(next, pages, None))) is not None:
            named = [(_NAME.fullmatch(found["path"]), found["last_modified"]) for found in page]
            yield [
                Blob(name[0], UUID(name[1]), int(name[2]), name[3], modified)
                for name, modified in named
                if name is not None
            ]

    def delete(self, names: Collection[str]) -> None:
        """Delete blobs, at most a page of them. A blob that is missing is no error."""
        # Files are deleted one by one: in a batch, the library stops at the first missing one.
        for batch in [[name] for name in names] if self._root is not None else [list(names)]:
            with suppress(FileNotFoundError):
                self._ask(partial(self._library.delete, self._store, batch))

    def delete_torn(self, before: datetime) -> None:
        """Delete partial files that crashes left in the middle of a put. The library lists none."""
        if self._root is None:
            return
        for file in (self._root / self._folder).rglob("*#*"):
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < before.timestamp():
                    file.unlink()

    def _ask(self, call: Callable[[], T]) -> T:
        """Call the library and translate its errors, except FileNotFoundError, which each caller
        interprets."""
        _refuse_fork()
        try:
            return call()
        except self._library.exceptions.BaseError as error:
            text, away = _error_text(error), self._library.exceptions.GenericError
            if isinstance(error, away) and not _DENIED.search(text):
                raise StoreUnavailable(f"{self.url} is away: {text}") from error
            raise ConfigError(f"{self.url} refuses: {text}") from error


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
            "the URL of a blob store contains its place alone; credentials, region and endpoint "
            "come from the environment: AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL, …"
        )
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and path.strip("/"):
        try:
            Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
            return obstore, LocalStore(path, mkdir=True, automatic_cleanup=True), Path(path)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise ConfigError(f"there can be no folder {path}: {_error_text(error)}") from error
    if parts.scheme == "s3" and parts.netloc:
        prefix = path.strip("/") or None
        return obstore, S3Store(parts.netloc, prefix=prefix, retry_config={"max_retries": 0}), None
    raise ConfigError(f"blobs={url}: give file:///FOLDER or s3://BUCKET/PREFIX")


def _refuse_fork() -> None:
    """Raise ConfigError in a forked child, where the library's threads do not exist."""
    global _process
    if _process is None:
        _process = os.getpid()
    elif _process != os.getpid():
        raise ConfigError(
            "this process was forked from one that used the blob store, whose library does not "
            "survive that; start it with 'spawn', or fork before the first run"
        )


def _sync(root: Path, file: Path) -> None:
    """Sync a new file, and the folders from it up to the root, so that all of them are durable."""
    for path in (file, *[folder for folder in file.parents if folder.is_relative_to(root)]):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _error_text(error: Exception) -> str:
    """The library's message without its debug output."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:400]
