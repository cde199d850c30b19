"""Deliberate defects of `agentrun/lifecycle/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "a reply is blamed for an error of the configuration": Mutation(
        "ending.finish_run",
        "isinstance(error, ConfigError)",
        "False",
        "integrations/test_effect_classes.py::"
        "test_an_error_of_the_configuration_is_not_the_replys_fault",
    ),
    "a result that the code cannot use stays for ever": Mutation(
        "reopening_events",
        "events += [_reopened(one, person) for one in history.decided_since_reply()]",
        "pass",
        "steps/test_doubt.py::test_a_result_that_the_code_cannot_use_is_asked_for_again",
    ),
    "the command line counts on a worker that is not there": Mutation(
        "missing_worker",
        "servers is None or servers.owned or servers.serving",
        "True",
        "cli/test_cli_status.py::test_what_is_decided_and_not_taken_up_is_told_as_that",
    ),
    "a poisonous run is claimed for ever": Mutation(
        "POISON",
        "5",
        "10_000",
        "lifecycle/test_worker.py::test_a_run_that_was_claimed_again_and_again_for_nothing_is_parked",
    ),
    "all that may crash a worker are tried at once": Mutation(
        "Worker._take_over",
        "self._is_on_trial()",
        "False",
        "lifecycle/test_worker.py::test_runs_that_may_crash_their_workers_are_tried_one_at_a_time",
    ),
    "an agent that raises GeneratorExit ends the flow that executes it": Mutation(
        "call_body.call",
        "except GeneratorExit as error",
        "except ZeroDivisionError as error",
        "api/test_small_inputs.py::test_generator_exit_fails_a_run",
    ),
    "a letter lets a run go on that is kept for a person": Mutation(
        "execute",
        'person is None and (kept := last_park(events, "review"))',
        '(kept := last_park(events, "review")) and not events',
        "lifecycle/test_lost_journal.py::test_no_letter_lets_a_run_go_on_that_is_held_for_a_loss",
    ),
    # -- steps -------------------------------------------------------------------------------------
    "a result is handed out before it is durable": Mutation(
        "finish_run",
        "yield run.end(finished)",
        "run.end(finished)",
        "steps/test_order.py::test_a_result_is_handed_out_when_it_is_durable",
    ),
    "a child of a new path is another run": Mutation(
        "_execute_child",
        "known.begun_at if known else step.ident",
        "step.ident",
        "lifecycle/test_deploys.py::test_a_child_that_a_new_path_finds_again_is_not_begun_again",
    ),
    "workers leave diverged runs to people": Mutation(
        "Worker._sweep",
        "self._try_diverged()",
        "",
        "lifecycle/test_deploys.py::test_a_worker_that_starts_with_the_restored_code_takes_it_up",
    ),
    "threads do not carry the run": Mutation(
        "_patch_threads",
        "threading.Thread.start = started",
        "",
        "steps/test_identity.py::test_threads_and_pools_carry_the_run",
    ),
    # -- agents and tools of any shape -------------------------------------------------------------
    "each call of an async agent has an event loop of its own": Mutation(
        "run_in_loop",
        "line, answer = current_point(), futures.Future[T]()",
        """
        line, answer = current_point(), futures.Future[T]()
        close()
        """,
        "lifecycle/test_event_loop.py::test_threads_and_the_main_thread_share_an_async_client",
    ),
    "Ctrl-C does not reach the event loop": Mutation(
        "run_in_loop",
        """
        loop.call_soon_threadsafe(cancel)
        futures.wait([answer])
        """,
        "pass",
        "lifecycle/test_event_loop.py::test_a_signal_hands_the_run_back",
    ),
    "an item is handed on before it is durable": Mutation(
        "_record_item",
        "yield line.run.flushed()",
        "",
        "lifecycle/test_generator_agents.py::test_an_item_that_was_handed_on_is_what_another_process_hands_on",
        tries=3,
    ),
    "a resumed generator yields what it makes now": Mutation(
        "_record_item",
        "return kept",
        "return item",
        "lifecycle/test_generator_agents.py::test_an_item_that_was_handed_on_is_what_another_process_hands_on",
    ),
    "a generator goes on though nobody reads on": Mutation(
        "collect_items.collect",
        """
        reader.next_request().result()
        reader.check(line)
        """,
        "",
        "lifecycle/test_generator_agents.py::test_a_reader_that_stops_hands_the_run_back_and_nothing_further_happens",
    ),
    "after a wait for a person nobody hands items on": Mutation(
        "_take_reader",
        """
        finally:
            _reader.set(reader)
        """,
        """
        finally:
            pass
        """,
        "lifecycle/test_generator_agents.py::test_a_reader_reads_on_after_a_wait_for_a_person",
    ),
    # -- runs above and below ----------------------------------------------------------------------
    "a run that was cancelled leaves its children": Mutation(
        "_notify_related_runs",
        "(reason := reason_for_children(run)) is not None",
        "(reason := None) is not None",
        "crash/test_related_runs.py::test_a_child_is_cancelled_that_outlives_the_owner_of_both",
    ),
    "a child that is created late outlives its parent": Mutation(
        "create.create_run",
        "cancel_if_parent_ended(parent[0].run, key)",
        "pass",
        "lifecycle/test_deadline.py::test_a_child_ends_that_is_created_while_its_parent_ends",
    ),
    "a run that was handed back keeps its cancellation unread": Mutation(
        "related_runs.cancel",
        """
        run = find_run(database, key)
        if run.status in _ENDED:
            return
        """,
        """
        return
        if run.status in _ENDED:
            return
        """,
        "lifecycle/test_deadline.py::test_a_child_ends_that_is_claimed_while_its_parent_ends",
    ),
    "a worker executes a child whose parent has ended": Mutation(
        "_obey_earlier_end",
        'yield blocking(partial(stop_if_parent_ended, run, run.parent["key"]))',
        "pass",
        "lifecycle/test_deadline.py::test_a_child_ends_whose_creator_was_killed_while_its_parent_ended",
    ),
    "a decision does not say that the program goes on": Mutation(
        "warn_missing_worker",
        "if decided else",
        "if False else",
        "lifecycle/test_worker.py::test_a_decision_warns_that_nobody_goes_on_and_how_the_run_does",
    ),
}
