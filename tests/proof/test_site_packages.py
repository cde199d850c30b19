"""Source files of site-packages, written by an agent's tool: every byte, also after a SIGKILL.

The model sends each file as an argument of `write_file`. A process has many runs under way, one a
file; once all of them have their reply it is killed, and another one resumes them. No run diverges,
and no byte of a file is another. The files hold what masking looks for: test keys, passwords in
documentation, `password=None`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import agentrun
from agentrun.steps.execution_point import current_context
from agentrun.testing import Call, Provider, Reply, Rule, When

if TYPE_CHECKING:
    from matrix import Proof

BATCH = 40  # runs that one SIGKILL strikes
ALL, SHARE = 20_000, 5  # files in all; batches that a bounded run takes
LARGEST = 60_000  # bytes of a file
ROOTS = [Path(pytest.__file__).parents[1], Path("/usr/lib/python3")]
SUSPECT = (b"PRIVATE KEY", b"password=", b"token", b"sk-", b"://", b"Bearer ", b"\\u00")


def sources() -> Iterator[tuple[Path, str]]:
    """Every text below the roots, in an order that is the same each time."""
    for root in ROOTS:
        for path in sorted(root.rglob("*.py")):
            data = path.read_bytes() if 0 < path.stat().st_size < LARGEST else b""
            try:
                text = data.decode()
            except UnicodeDecodeError:
                continue
            if text:
                yield path, text


def share(count: int, seed: int) -> list[tuple[Path, str]]:
    """So many files: half of them such as hold what masking looks for, where there are enough."""
    every = list(sources())
    random.Random(seed).shuffle(every)
    suspect = [one for one in every if any(mark in one[1].encode() for mark in SUSPECT)]
    chosen = suspect[: count // 2]
    known = {path for path, _ in chosen}
    return chosen + [one for one in every if one[0] not in known][: count - len(chosen)]


def name_of(path: Path) -> str:
    return hashlib.sha1(str(path).encode(), usedforsecurity=False).hexdigest()[:16]


# -- the child: an agent with one tool ---------------------------------------------------------


def child(dsn: str, provider: str, folder: str, kill: bool, names: list[str]) -> None:
    from openai import OpenAI

    client = agentrun.wrap(OpenAI(base_url=provider, api_key="k"))
    waiting = threading.Semaphore(0)

    @agentrun.tool(effect="idempotent")
    def write_file(name: str, text: str) -> str:
        Path(folder, name).write_bytes(text.encode())
        return "written"

    @agentrun.agent
    def edit(name: str) -> str:
        messages: list[Any] = [{"role": "user", "content": f"write <{name}>"}]
        while True:
            reply = client.chat.completions.create(
                model="gpt-5-mini", messages=messages, tools=agentrun.schemas(write_file)
            )
            message = reply.choices[0].message
            if not message.tool_calls:
                return message.content or ""
            if kill:
                current_context().database.writer.hurry()  # type: ignore[union-attr]
                waiting.release()
                threading.Event().wait()
            messages.append(message.model_dump(exclude_none=True))
            messages += agentrun.call_tools(message, [write_file])

    with agentrun.connect(dsn) as database, ThreadPoolExecutor(BATCH if kill else 4) as pool:
        runs = [pool.submit(edit.with_options(key=name).run, name) for name in names]
        if kill:
            for _ in names:
                waiting.acquire()
            while database.load.measure()[0]:  # the replies are queued: wait until they are durable
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        assert [run.result() for run in runs] == ["done"] * len(names)


def started(dsn: str, provider: str, folder: Path, kill: bool, names: list[str]) -> int:
    given = json.dumps([dsn, provider, str(folder), kill, names])
    done = subprocess.run(
        [sys.executable, __file__], input=given, text=True, capture_output=True, timeout=300
    )
    if not kill and done.returncode:
        pytest.fail(done.stdout[-3000:] + done.stderr[-6000:])
    return done.returncode


# -- the tests ------------------------------------------------------------------------------------


def check(files: list[tuple[Path, str]], dsn: str, folder: Path) -> None:
    with Provider() as provider:
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            rules = [
                Rule(When(turn=0, contains=f"<{name_of(path)}>"),
                     Reply(tool_calls=[Call("write_file", {"name": name_of(path), "text": text})]))
                for path, text in batch
            ]  # fmt: skip
            provider.say([Reply("nothing was asked"), Reply("done")], rules)
            names = [name_of(path) for path, _ in batch]
            assert started(dsn, provider.base_url, folder, True, names) == -signal.SIGKILL
            billed = provider.billed()
            assert not list(folder.iterdir())
            started(dsn, provider.base_url, folder, False, names)
            assert provider.billed() == billed + len(names), "the first reply was not paid again"
            for path, text in batch:
                written = folder / name_of(path)
                assert written.read_bytes() == text.encode(), path
                written.unlink()


def test_a_share_of_site_packages_is_written_byte_for_byte(dsn: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("AGENTRUN_SEED", random.randrange(10**6)))
    print(f"AGENTRUN_SEED={seed}")
    check(share(BATCH, seed), dsn, tmp_path)


@pytest.mark.long
def test_files_of_site_packages_are_written_byte_for_byte(
    dsn: str, tmp_path: Path, proof: Proof
) -> None:
    """With ``--whole`` 20,000 files, or as many as there are."""
    files = share(ALL, 11)
    batches = {f"{start:05}": files[start : start + BATCH] for start in range(0, len(files), BATCH)}
    for case in proof.cases("site-packages", list(batches), SHARE):
        with case:
            check(batches[case.name], dsn, tmp_path)
            case.count(files=len(batches[case.name]))


if __name__ == "__main__":
    child(*json.loads(sys.stdin.read()))
