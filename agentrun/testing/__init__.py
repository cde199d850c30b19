"""Doubles of the outside world, to test agents that survive being killed.

::

    from agentrun.testing import Call, Fault, Provider, Reply

    script = [Reply(tool_calls=[Call("refund", {"order_id": "7"})]), "Refunded."]
    with Provider(script=script) as provider:
        client = OpenAI(base_url=provider.base_url, api_key="test")
        provider.arm(Fault.hold(at="effect"))      # billed, and no byte of the answer is out
        worker = subprocess.Popen([...])
        provider.wait_for("held")                  # exactly there …
        worker.kill()                              # … no sleep
        ...
        assert provider.billed() == 3

A `Provider` speaks chat completions, responses, Anthropic's messages and embeddings; a `Carrier`
books pick-ups, an `SmtpSink` takes mail. Each is a real server in a process of its own, with a
ledger on disk of what was paid, booked or accepted, and with the same faults. Nothing here needs
the rest of agentrun.
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
