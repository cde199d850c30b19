"""Doubles of the outside world, to test agents that survive being killed.

::

    from agentrun.testing import Call, Fault, Provider, Reply

    script = [Reply(tool_calls=[Call("refund", {"order_id": "7"})]), "Refunded."]
    with Provider(script=script) as provider:
        client = OpenAI(base_url=provider.base_url, api_key="test")
        provider.arm(Fault.hold(at="effect"))      # hold the call once it is billed
        worker = subprocess.Popen([...])
        provider.wait_for("held")                  # wait for exactly that moment, without a sleep
        worker.kill()
        ...
        assert provider.billed() == 3

A `Provider` speaks chat completions, responses, Anthropic's messages and embeddings; a `Carrier`
books pick-ups; an `SmtpSink` accepts mail. Each is a real server in its own process, with a ledger
on disk that records each bill, booking or mail. All of them have the same faults. The doubles do
not import the rest of agentrun.
"""

from __future__ import annotations

from agentrun.testing.doubles import Carrier, Control, Provider, SmtpSink
from agentrun.testing.faults import Fault, When
from agentrun.testing.ledger import Entry
from agentrun.testing.replies import Call, Reply, Rule

__all__ = [
    "Call",
    "Carrier",
    "Control",
    "Entry",
    "Fault",
    "Provider",
    "Reply",
    "Rule",
    "SmtpSink",
    "When",
]
