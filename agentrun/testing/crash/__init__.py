"""Crash tests for your own agents: killed at every point, resumed, and compared.

::

    from agentrun.testing.crash import Rig

    with Rig(script=[Reply(tool_calls=[Call("refund", {"order_id": "7"})]), "Refunded."]) as rig:
        report = rig.test(support, "refund order 7")
    report.check()                              # raises AssertionError with what was found

A `Rig` is a private database and a double of the model's provider. The agent runs undisturbed a few
times; then once for each point that these runs passed (`agentrun.core.points`), each time under a
fresh key, killed there with SIGKILL, and resumed by another process. In pytest the fixture
``crashtest`` does all this in a line; in a shell `agentrun crashtest` does.

The tools act for real, once or twice a kill. Point them at doubles: a process of a crash test
reaches no other machine unless ``network=True``.

What is looked at, and what is found there:

=================  =============================================================================
divergence         on resume the agent asked for something other than what is recorded
repeated           a step was performed twice and the outside differs from an undisturbed run; or
                   a recorded step was performed again
no key             a step that may be repeated sent a POST, PATCH or mail again, without its key
outside            an effect on a line of the run that belongs to no step
paid twice         a model call was billed again though no crash explains it
wrong reconcile    ``reconcile`` said the opposite of what had happened
result             the resumed run ended otherwise than an undisturbed one
outside differs    the outside differs, and no step performed twice explains it
no end             the resumed process did not end by itself
=================  =============================================================================

The outside is what ``world`` tells, the files that steps write, and the tables of the private
database. Only what undisturbed runs agree on is compared, so ids and times do no harm. Not seen:
what C libraries do by themselves (gRPC, uvloop; of psycopg the statements are seen, not what they
change in another database), and crashes between two lines of a body.

::

    rig      database, double, the runs        child    one process, and how it dies
    watch    effects, as Python sees them      diary    what a process told before it died
    places   whose code a line is              later    the resumed process's clock, a day ahead
    outside  what is compared, and how         judge    what the evidence says
    report   findings, as text and JSON
"""

from __future__ import annotations

from agentrun.testing.crash.report import Doubt, Finding, Report
from agentrun.testing.crash.rig import Rig

__all__ = ["Doubt", "Finding", "Report", "Rig"]
