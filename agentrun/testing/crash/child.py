"""One process of a crash test: how it is started, what it does, and how it dies."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import agentrun
from agentrun.core import points, recorder
from agentrun.testing.crash import later
from agentrun.testing.crash.diary import Diary, Trace, read
from agentrun.testing.crash.places import Places
from agentrun.testing.crash.watch import Watch

__all__ = ["Order", "Point", "Subject", "ended", "in_child", "live", "perform", "spawn"]

Point = tuple[str, int]  # the n-th, from 0, of the points of this name that a process passes

_BY_THE_CLOCK = frozenset({"beat:before", "beat:after"})  # no step of a run leads there


@dataclass(frozen=True)
class Order:
    """What one process is to do."""

    key: str = ""  # of the run
    dsn: str = ""
    double: str = ""  # base URL of the provider's double
    kill_at: Point | None = None  # where it dies; None: it lives
    every_chunk: bool = False
    later: bool = False  # its clock is a day ahead
    network: bool = False
    timeout: float = 60.0  # seconds
    diary: str = ""  # its path

    @classmethod
    def from_json(cls, text: str) -> Order:
        """The order that `to_json` wrote."""
        told = json.loads(text)
        return cls(**{**told, "kill_at": told["kill_at"] and tuple(told["kill_at"])})

    def to_json(self) -> str:
        """For another interpreter."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Subject:
    """Whom the test is about: an agent, and what it is called with."""

    agent: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()  # starts an interpreter that does `live` with an order, as JSON
    fork: bool = True


def perform(subject: Subject, order: Order, *, fresh: bool = False) -> Trace:
    """Start a process, see it to its end, and return what it told.

    It is forked from this one, or with ``fresh`` (or where forking is no good) started anew.
    """
    with tempfile.TemporaryDirectory(prefix="agentrun-crash-") as folder:
        order = replace(order, diary=str(Path(folder) / "diary"))
        if fresh or not subject.fork:
            code = _started([*subject.command, order.to_json()], order)
        else:
            code = in_child(lambda: live(order, subject.agent, subject.args, subject.kwargs))
        return read(order.diary, code)


def in_child(action: Callable[[], object]) -> int:
    """Run ``action`` in a forked child; its exit status, or minus the signal that ended it."""
    pid = spawn(action)
    try:
        return ended(pid)
    except BaseException:  # Ctrl-C: the child goes first
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        raise


def spawn(action: Callable[[], object]) -> int:
    """Fork a child for ``action``; its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: we do no more
        pid = os.fork()
    if pid == 0:
        code = 70
        try:
            action()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Wait for a child; its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _started(command: Sequence[str], order: Order) -> int:
    with Path(f"{order.diary}.log").open("wb") as log:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        ).returncode


# -- in the process --------------------------------------------------------------------------------


def live(order: Order, agent: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Execute or resume the run, telling the diary, until it ends or the process is killed."""
    _alone(order)
    diary, places = Diary(order.diary), Places(agent)
    recorder.stand_in = order.double
    if order.later:
        later.shift(places)
    Watch(diary, places, network=order.network).begin()
    points.arm(_Countdown(diary, order))
    agentrun.connect(order.dsn)
    run = agent.with_options(key=order.key, on_held="raise", on_divergence="refuse").run
    diary.note("end", **_ended(agent, lambda: run(*args, **kwargs), places))
    diary.note("modules", names=_libraries(places))


def _alone(order: Order) -> None:
    """A session, an output and a time limit of its own; the kernel keeps the limit."""
    gc.freeze()  # or it would look through all of its parent's objects, and so copy their pages
    with contextlib.suppress(PermissionError):  # it has a session already
        os.setsid()
    log = os.open(f"{order.diary}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(log, number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if numpy := sys.modules.get("numpy"):  # a fork repeats what its brothers drew; `random` knows
        numpy.random.seed()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, order.timeout)


class _Countdown:
    """Counts the points that the process passes and kills it at one of them.

    By name, since the journal's writer passes its points when it has time. Of the chunks of a
    stream those count whose number is a power of two, unless all are wanted.
    """

    def __init__(self, diary: Diary, order: Order) -> None:
        self._diary, self._order = diary, order
        self._passed, self._chunks = defaultdict[str, Iterator[int]](count), 0

    def __call__(self, point: str) -> None:
        if point in _BY_THE_CLOCK or self._is_skipped(point):
            return
        n, step = next(self._passed[point]), agentrun.current_step()
        body = {"key": step.key, "attempt": step.attempt} if point.startswith("body:") else {}
        self._diary.note("point", n=n, name=point, **body)
        if (point, n) == self._order.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_skipped(self, point: str) -> bool:
        if not point.startswith("chunk:"):
            self._chunks = 0 if point == "send:after" else self._chunks
            return False
        self._chunks += point == "chunk:before"
        return not self._order.every_chunk and self._chunks & (self._chunks - 1) != 0


def _ended(agent: Any, run: Callable[[], Any], places: Places) -> dict[str, Any]:
    try:
        result = run()
    except agentrun.Diverged as error:
        cause = error.__context__
        place = places.innermost(cause.__traceback__) if cause else ""
        return {"how": "diverged", "message": str(cause), "diff": error.diff, "place": place}
    except agentrun.RunHeld as error:
        return {"how": "held", "message": str(error), "step": error.step}
    except agentrun.RunFailed as error:
        return {"how": "failed", "message": str(error.__cause__ or error)}
    except BaseException as error:
        traceback.print_exc()
        return {"how": "error", "message": f"{type(error).__name__}: {error}"}
    return {"how": "done", "result": agent.arguments.result.encode(result)}


def _libraries(places: Places) -> list[str]:
    """The library modules that this process loaded: others may load them before they fork."""
    modules = [(name, getattr(module, "__file__", None)) for name, module in sys.modules.items()]
    return [name for name, file in modules if file and places.owner(file) == "library"]
