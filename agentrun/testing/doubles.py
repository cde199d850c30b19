"""The objects by which a test controls the doubles: each starts a process, and commands it by HTTP.

A double runs in its own process because the outside world does not end with a killed worker: it
must still be able to report the bills, bookings and mails afterwards.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from agentrun.testing.faults import Fault
from agentrun.testing.ledger import Entry, fold
from agentrun.testing.replies import Reply, Rule

__all__ = ["Carrier", "Control", "Provider", "SmtpSink"]

STOP_S = 10.0
CALL_S = 30.0
# Loopback must not go through a proxy that the environment names.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Control:
    """Commands to a running double, from any process that knows its ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url

    def arm(self, *faults: Fault) -> None:
        """Arm faults; each counts the matching requests from now on."""
        self._call("POST", "faults", [fault.to_json() for fault in faults])

    def disarm(self) -> None:
        """Disarm every fault. A request that is held stays held."""
        self._call("DELETE", "faults")

    def release(self) -> None:
        """Let every request that is held now continue."""
        self._call("POST", "release")

    def wait_for(self, what: str, count: int = 1, *, timeout: float = 30.0) -> None:
        """Block until ``count`` requests have reached a moment; raise TimeoutError if they do not.

        ``what`` is ``"received"``, ``"effect"``, ``"delivered"``, ``"aborted"`` or
        ``"refused"``; these count requests from the start of the double. ``"chunk"`` counts
        chunks. ``"held"`` is the number of requests that are held at present.
        """
        query = urllib.parse.urlencode({"for": what, "count": count, "timeout": timeout})
        state = json.loads(self._call("GET", f"wait?{query}", timeout=timeout + CALL_S))
        if not state["reached"]:
            raise TimeoutError(f"{what} did not reach {count} in {timeout:g} s: {state['counts']}")

    def ledger(self) -> list[Entry]:
        """Every request so far, in order of arrival."""
        return fold(self._call("GET", "ledger").splitlines())

    def effects(self) -> list[Entry]:
        """The requests that took effect, in order of arrival."""
        return [entry for entry in self.ledger() if entry.outcome == "effect"]

    def requests(self) -> list[Any]:
        """The bodies of all requests, in order of arrival."""
        return [entry.body for entry in self.ledger()]

    def _call(self, method: str, path: str, body: Any = None, timeout: float = CALL_S) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_double/{path}", data, method=method)
        try:
            with _opener.open(request, timeout=timeout) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{method} {path}: {error.read().decode()}") from None


class Double(Control):
    """A double that this process owns: it ends with the ``with`` block, or with this process.

    ``ledger`` is a file to append to. Without it, the double keeps a temporary file; this object
    reads the entries before the double ends.
    """

    module: ClassVar[str]

    def __init__(self, *, ledger: str | Path | None = None, faults: Sequence[Fault] = ()) -> None:
        super().__init__("")
        self.ledger_path = Path(ledger) if ledger else Path()
        self._has_ledger = ledger is not None
        self._faults = faults
        self._process: subprocess.Popen[str] | None = None
        self._last: list[Entry] = []
        self.port = 0

    @property
    def pid(self) -> int:
        """The process id of the running double."""
        return self._running().pid

    def start(self) -> Self:
        """Start the process, and return when it is ready to serve."""
        # Started as a file: with -m, Python would import the whole of agentrun first.
        command = [sys.executable, "-P", str(Path(__file__).with_name("__main__.py"))]
        command += [self.module, "--owned"]
        command += ["--ledger", str(self.ledger_path)] if self._has_ledger else []
        # In its own session, Ctrl-C does not reach the double: its owner ends it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._process = process
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready:
            self._end()
            raise RuntimeError(
                f"{' '.join(command)} ended with {process.returncode} before it was"
                " ready; its error is above"
            )
        where = json.loads(ready)
        self.url, self.port = where["url"], where["port"]
        self.ledger_path = Path(where["ledger"])
        try:
            self._prepare()
        except BaseException:
            self._end()
            raise
        return self

    def stop(self) -> None:
        """End the process. `ledger` still returns its entries."""
        if self._process is not None:
            try:
                self._last = self.ledger()
            finally:
                self._end()

    def ledger(self) -> list[Entry]:
        """Every request so far, in order of arrival. Also available after the double has ended."""
        if self._process is None:
            return self._last
        if self._process.poll() is not None:  # It was killed, so it cannot answer: read its file.
            return fold(self.ledger_path.read_text("utf-8").splitlines())
        return super().ledger()

    def _prepare(self) -> None:
        if self._faults:
            self.arm(*self._faults)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} is not running; use it in a `with`")
        return self._process

    def _end(self) -> None:
        process = self._running()
        self._process = None
        process.terminate()
        try:
            process.communicate(timeout=STOP_S)  # Closes both pipes and reaps.
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Provider(Double):
    """OpenAI's and Anthropic's API on loopback; its ledger bills every answer that it begins.

    The double speaks chat completions, responses, messages and embeddings, and the dialects of
    Gemini, Ollama, Bedrock and Vertex. It also makes images and audio, and accepts uploads and
    jobs. An OpenAI client uses ``base_url`` as its base URL; clients of Anthropic, Azure and the
    other dialects use ``url``.

    ``script`` is a list of replies by turn of the conversation. ``rules`` are tried before it. If
    neither has a reply, the double echoes the last message. An effect is a bill: its facts are
    ``response_id``, ``model``, ``turn``, ``stream`` and ``usage``.

    A response that is created in the background can be retrieved, streamed and cancelled while the
    double runs. It can be streamed for ``restream_s`` seconds, by default five minutes; after that
    it can only be retrieved.

    With ``exact``, the ledger also keeps the text of each request body (`Entry.text`).

    With ``rpm``, the double accepts that many calls a minute, in bursts of up to two seconds'
    worth, and refuses further calls with 429 and ``retry-after``.
    """

    module = "provider"

    def __init__(
        self,
        *,
        script: Sequence[Reply | str] = (),
        rules: Sequence[Rule] = (),
        faults: Sequence[Fault] = (),
        ledger: str | Path | None = None,
        restream_s: float | None = None,
        rpm: float | None = None,
        exact: bool | None = None,
    ) -> None:
        super().__init__(ledger=ledger, faults=faults)
        self._script, self._rules = script, rules
        settings = {"restream_s": restream_s, "rpm": rpm, "exact": exact}
        self._settings = {name: value for name, value in settings.items() if value is not None}

    @property
    def base_url(self) -> str:
        """The ``base_url`` of an OpenAI client."""
        return f"{self.url}/v1"

    def say(self, script: Sequence[Reply | str] = (), rules: Sequence[Rule] = ()) -> None:
        """Replace the script and the rules."""
        every = [*rules, Rule({}, script)]
        settings = {"rules": [rule.to_json() for rule in every], **self._settings}
        self._call("POST", "script", settings)

    def billed(self) -> int:
        """How many answers were billed."""
        return len(self.effects())

    def _prepare(self) -> None:
        self.say(self._script, self._rules)
        super()._prepare()


class Carrier(Double):
    """Books pick-ups over HTTP at ``url``; every ``POST /pickups`` books another pick-up."""

    module = "carrier"

    def pickups(self, reference: str | None = None) -> list[Mapping[str, Any]]:
        """The bookings in order; with ``reference``, only its bookings."""
        booked = [entry.facts for entry in self.effects()]
        return [one for one in booked if reference in (None, one["reference"])]


class SmtpSink(Double):
    """A mail server on ``host`` and ``port`` that stores each message and delivers none."""

    module = "smtp"
    host = "127.0.0.1"

    def messages(self) -> list[Mapping[str, Any]]:
        """The accepted messages: ``message_id, subject, sender, recipients, raw`` of each."""
        return [entry.facts for entry in self.effects()]

    def distinct(self) -> int:
        """How many different messages were accepted, by Message-ID."""
        return len(
            {message["message_id"] or f"#{at}" for at, message in enumerate(self.messages())}
        )
