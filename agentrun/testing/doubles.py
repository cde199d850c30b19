"""The doubles as a test holds them: each starts a process of its own and asks it over HTTP.

A process of its own, because the outside world does not die with the worker that is killed,
and must be able to say afterwards what was paid, booked and sent.
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
        """Forget every armed fault. What is held stays held."""
        self._call("DELETE", "faults")

    def release(self) -> None:
        """Let every request that is held now go on."""
        self._call("POST", "release")

    def wait_for(self, what: str, count: int = 1, *, timeout: float = 30.0) -> None:
        """Block until ``count`` requests in all have come so far; raises TimeoutError.

        ``what`` is ``"received"``, ``"effect"``, ``"delivered"``, ``"aborted"`` or
        ``"refused"``, counted from the start of the double; ``"chunk"`` counts chunks;
        ``"held"`` is the number of requests that are held at this moment.
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
    """A double that this process owns: it ends at the end of the ``with``, or with its owner.

    ``ledger`` is a file to append to; without one the ledger lives as long as the double and
    is remembered by this object.
    """

    module: ClassVar[str]

    def __init__(self, *, ledger: str | Path | None = None, faults: Sequence[Fault] = ()) -> None:
        super().__init__("")
        self.ledger_path = Path(ledger) if ledger else Path()
        self._kept = ledger is not None
        self._faults = faults
        self._process: subprocess.Popen[str] | None = None
        self._last: list[Entry] = []
        self.port = 0

    @property
    def pid(self) -> int:
        """The process id of the running double."""
        return self._running().pid

    def start(self) -> Self:
        """Start the process; returns when it is ready to serve."""
        # As a file, and not with -m: that would load all of agentrun first.
        command = [sys.executable, "-P", str(Path(__file__).with_name("__main__.py"))]
        command += [self.module, "--owned"]
        command += ["--ledger", str(self.ledger_path)] if self._kept else []
        # A session of its own: Ctrl-C is for the owner, who then ends the double.
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
        """End the process. The ledger can still be asked."""
        if self._process is not None:
            try:
                self._last = self.ledger()
            finally:
                self._end()

    def ledger(self) -> list[Entry]:
        """Every request so far, in order of arrival; after the end, the whole."""
        if self._process is None:
            return self._last
        if self._process.poll() is not None:  # It was killed: its file speaks for it.
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
    """OpenAI's and Anthropic's API on loopback; every answer it begins is billed in its ledger.

    It speaks chat completions, responses, messages and embeddings. An OpenAI client takes
    ``base_url`` for its base, Anthropic's and Azure's take ``url``.

    ``script`` is a list of replies by turn of the conversation, ``rules`` come before it. What
    neither answers is echoed. An effect is a bill: its facts are ``response_id``, ``model``,
    ``turn``, ``stream`` and ``usage``.

    A response that is created in the background can be asked for, streamed on and cancelled, as
    long as the double lives. It is streamed again for ``restream_s`` seconds, by default five
    minutes; then only asked for.

    With ``rpm`` it takes so many calls a minute, in bursts of two seconds' worth; further ones are
    refused with 429 and ``retry-after``.
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
    ) -> None:
        super().__init__(ledger=ledger, faults=faults)
        self._script, self._rules = script, rules
        settings = {"restream_s": restream_s, "rpm": rpm}
        self._settings = {name: value for name, value in settings.items() if value is not None}

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as ``base_url``."""
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
    """Books pick-ups over HTTP at ``url``; every ``POST /pickups`` books another one."""

    module = "carrier"

    def pickups(self, reference: str | None = None) -> list[Mapping[str, Any]]:
        """What is booked, in order; of one reference if given."""
        booked = [entry.facts for entry in self.effects()]
        return [one for one in booked if reference in (None, one["reference"])]


class SmtpSink(Double):
    """A mail server on ``host`` and ``port`` that keeps what it accepts and delivers nothing."""

    module = "smtp"
    host = "127.0.0.1"

    def messages(self) -> list[Mapping[str, Any]]:
        """What was accepted: ``message_id, subject, sender, recipients, raw`` of each."""
        return [entry.facts for entry in self.effects()]

    def distinct(self) -> int:
        """How many different messages arrived, told apart by Message-ID."""
        return len(
            {message["message_id"] or f"#{at}" for at, message in enumerate(self.messages())}
        )
