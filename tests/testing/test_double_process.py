"""A double outlives its clients, ends with its owner, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from openai import OpenAI

from agentrun.testing import Control, Fault, Provider
from agentrun.testing.ledger import fold

ASK = """
import sys
from openai import OpenAI
client = OpenAI(base_url=sys.argv[1], api_key="k", max_retries=0)
stream = client.chat.completions.create(
    model="gpt-5-mini", messages=[{"role": "user", "content": "hello"}], stream=True)
for event in stream:
    print(event.choices[0].delta.content, flush=True)
"""
OWN = """
import os, sys, time
from agentrun.testing import Provider
provider = Provider().start()
if sys.argv[1] == "fork" and os.fork() == 0:
    time.sleep(600)
print(provider.pid, provider.url, provider.ledger_path, flush=True)
sys.stdin.read()
"""


def say(provider: Provider) -> str | None:
    with OpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as client:
        reply = client.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": "hello"}]
        )
        return reply.choices[0].message.content


def wait_until_gone(pid: int) -> None:
    try:
        process = psutil.Process(pid)
        # An orphan that nobody reaps stays as a zombie; it has ended all the same.
        while process.status() != psutil.STATUS_ZOMBIE:
            try:
                process.wait(timeout=0.1)
            except psutil.TimeoutExpired:
                continue
    except psutil.NoSuchProcess:
        pass


@pytest.mark.parametrize("moment", ["received", "effect", 2])
def test_the_ledger_survives_a_client_killed_at_an_exact_moment(
    tmp_path: Path, moment: str | int
) -> None:
    path = tmp_path / "bills.jsonl"
    with Provider(ledger=path) as provider:
        provider.arm(Fault.hold(at=moment))  # type: ignore[arg-type]
        client = subprocess.Popen(
            [sys.executable, "-c", ASK, provider.base_url], stdout=subprocess.PIPE
        )
        provider.wait_for("held")
        on_disk = fold(path.read_text().splitlines())
        client.kill()
        printed, _ = client.communicate()
        billed = moment != "received"
        provider.wait_for("aborted" if billed else "refused")
        assert [entry.outcome for entry in on_disk] == ["effect" if billed else "open"]
        assert provider.billed() == billed
        assert provider.ledger()[0].reason == "the client has disconnected"
        assert len(printed.splitlines()) <= (2 if moment == 2 else 0)
        assert say(provider) == "echo: hello"
    assert [e.outcome for e in fold(path.read_text().splitlines())][-1] == "effect"


def test_the_double_ends_with_its_block_and_removes_its_temporary_ledger() -> None:
    with Provider() as provider:
        process = psutil.Process(provider.pid)
        say(provider)
        path = provider.ledger_path
        assert path.exists()
    assert not process.is_running()
    assert not path.parent.exists()
    assert provider.billed() == 1, "the ledger can still be asked"


def test_the_double_ends_while_a_request_is_held() -> None:
    with Provider(faults=[Fault.hold(at=1)]) as provider:
        pid = provider.pid
        client = subprocess.Popen(
            [sys.executable, "-c", ASK, provider.base_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        provider.wait_for("held")
    assert not psutil.pid_exists(pid)
    client.communicate()
    assert client.returncode == 1


@pytest.mark.parametrize("family", ["alone", "fork"])
def test_the_double_ends_when_its_owner_is_killed(family: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", OWN, family],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    assert owner.stdout is not None
    pid, url, ledger = owner.stdout.readline().split()
    assert Control(url).ledger() == []
    owner.kill()
    owner.wait()
    wait_until_gone(int(pid))
    if family == "fork":
        os.killpg(owner.pid, signal.SIGKILL)
    owner.communicate()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    assert not Path(ledger).parent.exists()


def test_a_double_on_the_same_ledger_goes_on_with_it(tmp_path: Path) -> None:
    path = tmp_path / "bills.jsonl"
    for _ in range(2):
        with Provider(ledger=path) as provider:
            say(provider)
    assert provider.billed() == 2
    assert [entry.id for entry in provider.ledger()] == ["r000001", "r000002"]


def test_a_killed_double_leaves_its_bills_on_disk(tmp_path: Path) -> None:
    with Provider(ledger=tmp_path / "bills.jsonl") as provider:
        say(provider)
        os.kill(provider.pid, signal.SIGKILL)
        wait_until_gone(provider.pid)
        assert provider.billed() == 1
    assert provider.billed() == 1


def test_a_double_started_by_hand_takes_a_rules_file_and_ends_when_idle(tmp_path: Path) -> None:
    rules = {
        "rules": [{"when": {"contains": "hell"}, "reply": {"text": "by rule"}}],
        "script": ["by script"],
        "faults": [{"action": "error", "code": 500}],
    }
    assert ask_by_hand(tmp_path, rules) == ("by rule", ["refused", "effect"])


def test_a_rules_file_may_be_a_list_of_replies(tmp_path: Path) -> None:
    assert ask_by_hand(tmp_path, ["by script"]) == ("by script", ["effect"])


def ask_by_hand(folder: Path, settings: object) -> tuple[str | None, list[str]]:
    """What a double that is started by hand with these settings says, and how each call ended."""
    rules = folder / "rules.json"
    rules.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "agentrun.testing.provider", "--rules", str(rules)]
    with subprocess.Popen(
        [*command, "--idle", "2"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=1) as client:
            reply = client.chat.completions.create(
                model="gpt-5-mini", messages=[{"role": "user", "content": "hello"}]
            )
        outcomes = [entry.outcome for entry in Control(url).ledger()]
        assert process.wait() == 0
        return reply.choices[0].message.content, outcomes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"once"', "the file holds 'once', and no list of replies and no object"),
        ('{"faults": [{"act": "drop"}]}', "unexpected keyword argument 'act'"),
        ('{"rule": []}', "settings have `rules` and `script`, not rule"),
        ("[", "JSONDecodeError"),
    ],
)
def test_a_rules_file_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, text: str, problem: str
) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(text)
    command = [sys.executable, "-m", "agentrun.testing.provider", "--rules", str(rules)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"--rules {rules} cannot be read: " in done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_double_that_cannot_start_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="before it was ready"):
        Provider(ledger=tmp_path / "no" / "such" / "folder").start()


def test_a_double_does_not_load_what_it_tests() -> None:
    main = Path(__file__).parents[2] / "agentrun" / "testing" / "__main__.py"
    command = [sys.executable, "-P", "-X", "importtime", str(main), "provider", "--help"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "agentrun.testing.chat" in loaded
    assert not [name for name in ("psycopg", "pydantic", "agentrun.core") if name in loaded]


def test_the_testing_room_needs_nothing_else_of_agentrun() -> None:
    room = Path(__file__).parents[2] / "agentrun" / "testing"
    for file in room.glob("*.py"):
        for line in file.read_text().splitlines():
            if line.startswith(("import agentrun", "from agentrun")):
                assert line.startswith("from agentrun.testing"), f"{file.name}: {line}"
