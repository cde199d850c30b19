"""Deliberate defects of `agentrun/models/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "a request is sent on a connection of an ended event loop": Mutation(
        "_drop_dead_connections",
        "if not ended:",
        "if True:",
        "models/test_model_wrap.py::test_an_async_client_serves_one_event_loop_after_another",
    ),
    "a wrapped client does not retry outside a run": Mutation(
        "RecordingBase.pass_on",
        "self.settings.policy if self.settings.sdk else RetryPolicy(retries=None)",
        "RetryPolicy(retries=None)",
        "models/test_model_wrap.py::test_outside_a_run_a_wrapped_client_retries_as_the_sdk_does",
    ),
    "a table speaks of an API by a name of its own": Mutation(
        "REQUIRED_FIELDS",
        'OLLAMA_EMBED: "embeddings"',
        '"ollama-embed": "embeddings"',
        "models/test_model_api_names.py::test_every_table_speaks_of_apis_that_an_endpoint_has",
    ),
    "a reader is not told that its connection was lost behind a call": Mutation(
        "LiveBody.piece",
        "raise self._lost",
        "return None",
        "steps/test_calls_in_streams.py::"
        "test_a_connection_that_is_lost_behind_the_call_is_lost_for_a_resumed_reader_too",
    ),
    "a plain call takes the way of background calls": Mutation(
        "ModelCall._attempts",
        "self.background or step.accepted is not None",
        "True",
        "steps/test_passed_modules.py::test_a_plain_call_passes_nothing_that_is_for_background_calls",
    ),
    "a plain call folds events that it does not have": Mutation(
        "ReplyBuilder.__init__",
        "self._pieces: list[bytes] = []",
        """
        self._pieces: list[bytes] = []
        self._fold.result()
        """,
        "steps/test_passed_modules.py::test_a_model_call_passes_what_architecture_lists",
    ),
    "a model's reply holds what is masked for the code": Mutation(
        "Attempts._read_whole",
        "self.masks",
        "False",
        "steps/test_covered.py::test_what_a_model_fills_in_is_masked_for_the_code_and_nothing_stores_it",
    ),
    "the pieces of a stream pass before they are masked": Mutation(
        "Attempts._attempt",
        "can_stream(self.model_request, response) and not self.masks",
        "can_stream(self.model_request, response)",
        "steps/test_covered.py::test_what_a_model_fills_in_is_masked_for_the_code_and_nothing_stores_it",
    ),
    "the type of an event is looked for in a set": Mutation(
        "is_preamble",
        'data.get("type") in PREAMBLE',
        'data.get("type") in frozenset(PREAMBLE)',
        "models/test_model_flaws.py::test_the_type_of_an_event_may_be_any_json",
    ),
    "only conversations are recorded": Mutation(
        "is_recorded",
        "(looks or method in ACTS) and UNPAID.search(path) is None",
        'path.endswith(("chat/completions", "responses", "v1/messages"))',
        "proof/test_live_equals_resumed.py::test_an_agent_that_meets_every_kind_sees_it_again",
    ),
    "a retry after a crash begins to count anew": Mutation(
        "Attempts.run",
        "step.prior_failures",
        "0",
        "models/test_model_retries.py::test_attempts_before_a_crash_count",
    ),
    "cookies are stored": Mutation(
        "_kept_headers",
        "dropped = SECRET_HEADERS",
        "dropped: frozenset[str] = frozenset()",
        "models/test_model_wrap.py::test_credentials_are_stored_nowhere",
    ),
    # -- paid calls --------------------------------------------------------------------------------
    "what an SDK asks passes where no table knows it": Mutation(
        "is_recorded",
        "(looks or method in ACTS) and UNPAID.search(path) is None",
        "any(_pattern(row.path).search(path) for row in ENDPOINTS)",
        "models/test_model_endpoints.py::test_what_an_openai_client_asks_is_recorded",
    ),
    "a resume deletes a file again": Mutation(
        "is_recorded",
        "method in ACTS)",
        'method in ACTS - {"DELETE"})',
        "steps/test_paid.py::test_a_run_that_deletes_its_files_goes_on_after_a_crash",
    ),
    "two pages of a list are one look": Mutation(
        "comparable_body",
        'comparable["query"] = address.query',
        "pass",
        "models/test_model_endpoints.py::test_two_pages_of_a_list_are_two_looks",
    ),
    "a file that is looked at is judged as an answer": Mutation(
        "body_flaw",
        "request.is_lookup and request.api != RETRIEVE_RESPONSE",
        "False",
        "models/test_model_endpoints.py::test_a_file_that_is_looked_at_may_hold_anything",
    ),
    "the name of an uploaded file is compared": Mutation(
        "_without_filename",
        'name != "filename"}',
        "name}",
        "models/test_model_endpoints.py::test_an_upload_is_a_claim_check_whatever_its_boundary",
    ),
    "equal bodies on two paths are one call": Mutation(
        "comparable_body",
        'comparable if api in APIS_COMPARED_BY_BODY else {"path": place.path, **comparable}',
        "asked",
        "models/test_model_endpoints.py::test_two_paths_with_equal_bodies_are_two_calls",
    ),
    "the signature of a query is stored": Mutation(
        "SECRET_QUERY",
        '"x-amz-signature",',
        "",
        "models/test_model_endpoints.py::test_a_presigned_query_is_not_stored",
    ),
    "cache writes are priced as plain input": Mutation(
        "_price_list_counts",
        '"cache_write_tokens": tokens["cache_write_tokens"],',
        "",
        "models/test_model_usage.py::test_cache_writes_cost_more_than_plain_input_and_reads_less",
    ),
    "a tier that is not listed has the usual price": Mutation(
        "_price_at",
        "context and not _has_variant(found.model, context)",
        "False",
        "models/test_model_usage.py::test_a_tier_that_the_list_does_not_know_is_unpriced_and_says_why",
    ),
    "the lines of Ollama are read to their end first": Mutation(
        "_PARSERS",
        '"application/x-ndjson": LineParser,',
        "",
        "models/test_model_dialects.py::test_ollamas_stream_is_live_line_by_line",
    ),
    # -- model calls -------------------------------------------------------------------------------
    "the SDK's own retries stay on": Mutation(
        "wrap",
        "target.max_retries = 0",
        "",
        "models/test_model_wrap.py::test_wrap_returns_the_same_instance_and_switches_the_retries_of_the_sdk_off",
    ),
    "an SDK retries what was given up": Mutation(
        "Attempts._forbid_sdk_retry",
        'response.headers["x-should-retry"] = "false"',
        "pass",
        "models/test_model_retries.py::test_retries_switched_on_again_send_nothing_more",
    ),
    "no idempotency key is sent": Mutation(
        "ModelCall.run",
        'self.request.headers.setdefault("Idempotency-Key", step.key)',
        "pass",
        "models/test_model_retries.py::test_two_429_and_an_answer_are_three_attempts_of_one_step",
    ),
    "a stream is recorded at its end, not at its last word": Mutation(
        "LiveBody._record",
        """
        if self._builder.ended:
            self._finish_step("complete")
        elif wire is None:
        """,
        "if wire is None:",
        "models/test_model_streams.py::test_the_outcome_is_recorded_before_the_terminal_marker_is_handed_on",
    ),
    "a stream without its last word is whole": Mutation(
        "LiveBody._end_reply",
        "raise self._hx.RemoteProtocolError(STREAM_CUT)",
        'self._finish_step("complete")',
        "models/test_model_streams.py::test_a_stream_that_loses_its_end_is_an_error_now_and_again",
    ),
    "something is handed on after a stream's last word": Mutation(
        "LiveBody._read",
        'wire == b"" or (self._finished and wire is not None)',
        'wire == b""',
        "models/test_model_streams.py::test_nothing_is_handed_on_that_follows_the_end",
    ),
    "an interrupted reader leaves half a reply as the recorded one": Mutation(
        "LiveBody.close",
        "not _interrupted()",
        "True",
        "models/test_model_streams.py::test_an_interrupted_consumer_leaves_no_outcome",
    ),
    "what is under way is asked for anew": Mutation(
        "BackgroundAttempts._begin",
        "self.step.accepted",
        "None",
        "models/test_model_background.py::test_what_is_under_way_is_picked_up",
    ),
    "half an event is handed on": Mutation(
        "BackgroundStream._take_whole_events",
        """
        self._partial = wire[cut:]
        return wire[:cut]
        """,
        "return wire",
        "models/test_model_background.py::test_a_stream_that_breaks_in_an_event_goes_on_with_it",
    ),
    "a cancelled run leaves its response": Mutation(
        "BackgroundClient.cancel_if_unwanted",
        "self.step.unwanted",
        "False",
        "models/test_model_background.py::test_a_cancelled_run_cancels_the_response",
    ),
    "what is missing of a stream is told from its beginning": Mutation(
        "SeenEvents.unseen_part",
        "None if _key(event) in self._complete else event",
        "event",
        "models/test_model_background.py::test_a_stream_that_is_told_no_more_ends_with_the_same_texts",
    ),
    "a reply that is none is taken for an answer": Mutation(
        "Attempts._read_whole",
        "self._failure_of_flaw(reply.flaw, response)",
        "None",
        "models/test_model_flaws.py::test_an_error_that_counts_nothing_was_not_billed",
    ),
    "a stream is handed on before it says anything": Mutation(
        "LiveBody.prime",
        "not (builder.has_begun or builder.ended or builder.flaw)",
        "not (self._held_back or builder.flaw)",
        "models/test_model_flaws.py::test_an_error_behind_a_preamble_costs_the_reader_nothing",
    ),
    "a stream whose connection broke is whole once it said why it stopped": Mutation(
        "LiveBody._read",
        """
        if not self._finished:
            raise
        """,
        """
        if self._builder.partial_body() is None:
            raise
        """,
        "models/test_model_flaws.py::test_a_stream_that_may_have_been_cut_is_an_error",
    ),
    "a refused connection uses up the retries": Mutation(
        "Attempts._transport_failure",
        "self.policy.ours and is_unreached(name, str(error))",
        "False",
        "steps/test_patience.py::test_a_refused_connection_is_waited_out_by_one_row",
    ),
    "a conversation over a WebSocket passes unrecorded": Mutation(
        "_patch.parse_uri",
        "line is not None and not line.in_step and",
        "False and",
        "steps/test_web_sockets.py::test_a_conversation_over_a_web_socket_is_refused_by_name",
    ),
}
