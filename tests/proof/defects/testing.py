"""Deliberate defects of `agentrun/testing/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "a crash test sends datagrams to other machines": Mutation(
        "_REACHING",
        '"socket.sendto": lambda _, address: address,',
        "",
        "testing/test_crash_parts.py::test_datagrams_and_names_of_other_machines_are_out_of_reach",
    ),
    "a changed prefix is not seen": Mutation(
        "_bytes_after_common_prefix",
        "other.startswith(one)",
        "other or one",
        "testing/test_crash_paid.py::test_an_agent_that_asks_with_another_prefix_after_a_resume_is_found",
    ),
    "a bill without a step is not found": Mutation(
        "_find_unexplained_bills",
        """
        if not asked:
            yield from _find_unrecorded_bills(evidence)
        """,
        "",
        "testing/test_crash_paid.py::test_a_paid_call_that_no_step_records_is_found",
    ),
    "a crash test compares no values": Mutation(
        "_find_in_case",
        "yield from _find_changed_values(evidence, case)",
        "",
        "testing/test_crash.py::test_a_value_that_is_another_one_on_a_resume_is_found",
    ),
    # -- what a crash test sees --------------------------------------------------------------------
    "with install() a crash test sees no connections": Mutation(
        "_PASSES_ON",
        '"models/transport.py": ("_pass", "_apass"),',
        "",
        "testing/test_crash_parts.py::test_connections_are_seen_in_sync_and_async_code",
    ),
    "a crash test takes the thread of an agent for its own": Mutation(
        "_PASSES_ON",
        '"lifecycle/context_propagation.py": ("call", "ran")',
        '"lifecycle/context_propagation.py": ("ran",)',
        "testing/test_crash_parts.py::test_what_a_library_does_for_the_agent_is_seen",
    ),
    "a crash test takes the loop of an agent for its own": Mutation(
        "_PASSES_ON",
        '"lifecycle/event_loop.py": ("_serve",),',
        "",
        "testing/test_crash_parts.py::test_what_a_library_does_for_the_agent_is_seen",
    ),
    "a crash test sees no tool that is a function of a library": Mutation(
        "_PASSES_ON",
        '"api/tool.py": ("call",),',
        "",
        "testing/test_crash_parts.py::test_what_a_library_does_for_the_agent_is_seen",
    ),
    "the double goes on with a message of a thread twice": Mutation(
        "MessageThreads.answer",
        'self._earlier.add(_previous(body) or "")',
        "pass",
        "integrations/test_anthropic.py::test_a_thread_that_was_continued_begins_anew",
    ),
    "the double forgets the conversation of a thread": Mutation(
        "MessageThreads.expand",
        '[*kept.get("messages", ()), *new]',
        "[*new]",
        "integrations/test_anthropic.py::test_a_tool_runner_that_was_killed_goes_on_with_its_thread",
    ),
    "a list of replies is no rules file": Mutation(
        "settings_from",
        "isinstance(data, list)",
        "False",
        "testing/test_double_process.py::test_a_rules_file_may_be_a_list_of_replies",
    ),
}
