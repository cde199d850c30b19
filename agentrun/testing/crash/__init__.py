"""Crash tests for your own agents: kill a run at every point, resume it, compare the outcome.

::

    from agentrun.testing.crash import Rig

    with Rig(script=[Reply(tool_calls=[Call("refund", {"order_id": "7"})]), "Refunded."]) as rig:
        report = rig.test(support, "refund order 7")
    report.check()                              # raises AssertionError that lists the findings

A `Rig` is a private database and a double of the model's provider. The agent first runs undisturbed
three times. Then it runs once for each point that the undisturbed runs passed
(`agentrun.core.points`). Each of these runs has a fresh key, is killed with SIGKILL at its point,
and is resumed by another process. In pytest, the fixture ``crashtest`` does all this in one line;
in a shell, `agentrun crashtest` does.

The tools really act, once or twice for each kill, so point them at doubles. Unless
``network=True``, Python's sockets cannot connect to another machine or ask one to resolve a name.
This does not cover a program that a tool starts, or a connection made from C (libpq, gRPC, curl).

The kinds of findings:

=================  =============================================================================
divergence         on resume the agent asked for something other than what is recorded
repeated           a step was performed twice and the outside differs from an undisturbed run; or
                   a recorded step was performed again
no key             a repeatable step sent a POST, PATCH or mail a second time without its key
outside            the agent's code had an effect outside any step
paid twice         a model call was billed again and no crash explains the second bill
unrecorded         the provider billed a request that no step records
cache              with ``cache=True``: a resumed run sent a model request whose prefix differs from
                   that of an undisturbed run, so the provider's prompt cache misses
wrong reconcile    ``reconcile`` reported the opposite of what had happened
values             the result of a step has another type or content on resume
exceptions         the exception of a step has another class, text, arguments or attributes on
                   resume
result             the resumed run ended in another way than an undisturbed one
outside differs    the outside differs, and no step performed twice explains the difference
no end             the resumed process did not end by itself
=================  =============================================================================

The outside is the state that ``world`` returns, the files that steps write, and the tables of the
private database. Only the parts on which the undisturbed runs agree are compared, so ids and times
that differ in each run cause no findings. A crash test does not see the effects of C libraries
(gRPC, uvloop), changes in a database other than the private one (it does see the statements that
psycopg sends there), or crashes between two lines of a step's body.

::

    runner            the database, the double, the schedule of the runs
    child             one process of a test, and its kill
    watch             notes the effects of that process, from Python's audit events
    diary             the notes of one process, on disk
    code_owners       whether a line of code belongs to the agent, a library or agentrun
    shifted_clock     the clock of a resumed process, a day ahead
    seen_values       values and exceptions as text that two processes can compare
    outside_world     reads the outside and compares the changes of two runs
    prefix            compares model requests with those of an undisturbed run
    findings          concludes the findings from the evidence
    report            the findings as text and JSON
    recorded_replies  takes the model's replies from an earlier run
"""

from __future__ import annotations

from agentrun.testing.crash.report import Finding, Report, ReportedDoubt
from agentrun.testing.crash.runner import Rig

__all__ = ["Finding", "Report", "ReportedDoubt", "Rig"]
