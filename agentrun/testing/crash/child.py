"""One process of a crash test: its start, the run that it executes, and its kill."""

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
from agentrun.core import points, recorder, witness
from agentrun.testing.crash import seen_values, shifted_clock
from agentrun.testing.crash.code_owners import CodeOwners
from agentrun.testing.crash.diary import Diary, Trace, read_trace
from agentrun.testing.crash.watch import Watch

__all__ = [
    "Order",
    "Point",
    "Subject",
    "execute_order",
    "fork_child",
    "run_in_child",
    "run_process",
    "wait_for_exit",
]

Point = tuple[str, int]  # ("append:before", 2): the third time that a process passes this point

# A process passes these at times of the clock, whatever the run does: no kill is scheduled there.
_HEARTBEAT_POINTS = frozenset({"beat:before", "beat:after"})


@dataclass(frozen=True)
class Order:
    """The instructions for one process."""

    key: str = ""  # of the run
    dsn: str = ""
    double: str = ""  # base URL of the provider's double
    kill_at: Point | None = None  # None: the process is not killed
    every_chunk: bool = False
    clock_shifted: bool = False  # its clock is a day ahead
    network: bool = False
    timeout: float = 60.0  # seconds
    diary: str = ""  # path of the file with its notes

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Read an order that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "kill_at": fields["kill_at"] and tuple(fields["kill_at"])})

    def to_json(self) -> str:
        """Encode the order, to pass it to another interpreter."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Subject:
    """The agent under test, and the arguments of its runs."""

    agent: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    command: Sequence[
        str
    ] = ()  # starts an interpreter that calls `execute_order` with an order, as JSON
    fork: bool = True


def run_process(subject: Subject, order: Order, *, fresh: bool = False) -> Trace:
    """Start a process, wait for its end, and return its trace.

    The process is a fork of this one. With ``fresh``, or if the subject cannot be forked, it is a
    new interpreter.
    """
    with tempfile.TemporaryDirectory(prefix="agentrun-crash-") as folder:
        order = replace(order, diary=str(Path(folder) / "diary"))
        if fresh or not subject.fork:
            code = _run_interpreter([*subject.command, order.to_json()], order)
        else:
            code = run_in_child(
                lambda: execute_order(order, subject.agent, subject.args, subject.kwargs)
            )
        return read_trace(order.diary, code)


def run_in_child(action: Callable[[], object]) -> int:
    """Run ``action`` in a forked child. Return its exit status, or minus the signal that ended it.

    If this process is interrupted (Ctrl-C), the child is killed first.
    """
    pid = fork_child(action)
    try:
        return wait_for_exit(pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        wait_for_exit(pid)
        raise


def fork_child(action: Callable[[], object]) -> int:
    """Fork a child that runs ``action`` and exits. Return its process id."""
    with warnings.catch_warnings():
        # Python warns of a fork beside threads. The child uses none of the parent's threads.
        warnings.simplefilter("ignore", DeprecationWarning)
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


def wait_for_exit(pid: int) -> int:
    """Wait for a child to end. Return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _run_interpreter(command: Sequence[str], order: Order) -> int:
    with Path(f"{order.diary}.log").open("wb") as log:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        ).returncode


# -- in the process --------------------------------------------------------------------------------


def execute_order(order: Order, agent: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Execute or resume the run of ``order`` until it ends or the process is killed.

    The process writes the points it passes, its effects and the end of the run to its diary.
    """
    _isolate(order)
    diary, owners = Diary(order.diary), CodeOwners(agent)
    recorder.stand_in = order.double
    if order.clock_shifted:
        shifted_clock.shift_clock(owners)
    Watch(diary, owners, network=order.network).begin()
    points.arm(_Countdown(diary, order))
    witness.arm(_StepWitness(diary))
    agentrun.connect(order.dsn)
    run = agent.with_options(key=order.key, on_held="raise", on_divergence="refuse").run
    diary.note("end", **_run_to_end(agent, lambda: run(*args, **kwargs), owners))
    diary.note("modules", names=_library_modules(owners))


def _isolate(order: Order) -> None:
    """Give this process its own session, output and time limit; the kernel enforces the limit."""
    # Without this, the garbage collector would visit the parent's objects and copy their pages.
    gc.freeze()
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    log = os.open(f"{order.diary}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(log, number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Forks share the state of numpy's generator and would all draw the same numbers. Python's
    # `random` reseeds itself after a fork.
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, order.timeout)


class _Countdown:
    """Counts the points that the process passes, and kills the process at one of them.

    Points are counted by name. A count over all names would not be repeatable: the journal's
    writer is a thread of its own, and passes its points at other moments in each run. Of the chunks
    of a stream, only those with the numbers 1, 2, 4, 8, … count, unless ``every_chunk`` is set.
    """

    def __init__(self, diary: Diary, order: Order) -> None:
        self._diary, self._order = diary, order
        self._passed, self._chunks = defaultdict[str, Iterator[int]](count), 0

    def __call__(self, point: str) -> None:
        if point in _HEARTBEAT_POINTS or self._is_skipped(point):
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


class _StepWitness:
    """Notes the values and exceptions that the agent's code gets from its steps."""

    def __init__(self, diary: Diary) -> None:
        self._diary = diary

    def __call__(self, key: str, how: str, what: Any) -> None:
        text = (
            seen_values.describe_error(what)
            if how == "exception"
            else seen_values.describe_value(what)
        )
        mark = seen_values.fingerprint(text)
        self._diary.note("seen", key=key, how=how, mark=mark, text=seen_values.shorten(text))


def _run_to_end(agent: Any, run: Callable[[], Any], owners: CodeOwners) -> dict[str, Any]:
    try:
        result = run()
    except agentrun.Diverged as error:
        cause = error.__context__
        place = owners.innermost_line(cause.__traceback__) if cause else ""
        return {"how": "diverged", "message": str(cause), "diff": error.diff, "place": place}
    except agentrun.RunHeld as error:
        return {"how": "held", "message": str(error), "step": error.step}
    except agentrun.RunFailed as error:
        return {"how": "failed", "message": str(error.__cause__ or error)}
    except BaseException as error:
        traceback.print_exc()
        return {"how": "error", "message": f"{type(error).__name__}: {error}"}
    return {"how": "done", "result": agent.arguments.result.encode_for_display(result)}


def _library_modules(owners: CodeOwners) -> list[str]:
    """The library modules that this process loaded.

    The runner imports them too, so that the processes it forks later start with them loaded.
    """
    modules = [(name, getattr(module, "__file__", None)) for name, module in sys.modules.items()]
    return [name for name, file in modules if file and owners.owner(file) == "library"]
