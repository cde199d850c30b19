"""Deliberate defects of `agentrun/values/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "an error of an MCP server has no code": Mutation(
        "exception_parts._DATA",
        '"mcp_types.jsonrpc.ErrorData",',
        "",
        "integrations/test_mcp_tasks.py::test_an_error_of_a_server_keeps_its_code",
    ),
    "a date of a model is refused as text": Mutation(
        "wrong_types",
        "model.model_validate_json(text, strict=True)",
        "model.model_validate(arguments, strict=True)",
        "values/test_model_arguments.py::test_what_json_has_no_type_for_is_taken_as_text",
    ),
    "an exception that is kept holds the credentials of its request": Mutation(
        "exception_parts._headers",
        "[pair for pair in texts if pair[0].lower() not in SECRET_HEADERS]",
        "texts",
        "proof/test_canaries.py::test_no_secret_is_left_anywhere",
    ),
    "a result that cannot be stored is found out too late": Mutation(
        "typed_values.outcome_of",
        'check(stored, "result")',
        "",
        "api/test_trouble.py::test_a_result_that_cannot_be_stored_is_told_and_its_effect_not_repeated",
    ),
    "an async def in a plain wrapper is a tool": Mutation(
        "refuse_unrecordable",
        "inspect.iscoroutinefunction(inner)",
        "False",
        "values/test_callables.py::test_what_cannot_be_recorded_is_no_tool_and_no_step",
    ),
    # -- live equals resumed -----------------------------------------------------------------------
    "the items of a set are stored in the order of their hashes": Mutation(
        "_sorted",
        "for item in value), key=canonical)",
        "for item in value), key=lambda _: 0)",
        "proof/test_live_equals_resumed.py::test_an_agent_that_meets_every_kind_sees_it_again",
    ),
    "a set in a deque is compared in the order of its hashes": Mutation(
        "_order_sets",
        "isinstance(inner, (list, tuple, deque))",
        "isinstance(inner, (list, tuple))",
        "values/test_values.py::test_a_set_in_any_container_is_recorded_in_one_order",
    ),
    "an exception that is raised live is another one than on a resume": Mutation(
        "rebuild",
        "_rebuild(described, live)",
        "live or _rebuild(described, live)",
        "proof/test_live_equals_resumed.py::test_an_agent_that_meets_every_kind_sees_it_again",
    ),
    # -- steps -------------------------------------------------------------------------------------
    "an exception comes back without its text": Mutation(
        "_rebuild",
        "kind is not None and error is not None and not _has_recorded_text(error, described)",
        "False",
        "values/test_exceptions.py::test_no_code_of_a_class_runs_because_a_row_names_it",
    ),
    "an exception is raised live as it was and not as it is recorded": Mutation(
        "throw",
        "_empty_generator().throw(rebuild(described, live))",
        "_empty_generator().throw(live or rebuild(described))",
        "values/test_exceptions.py::test_of_what_no_record_can_hold_a_stand_in_is_left_live_too",
    ),
    "an exception comes back without its cause": Mutation(
        "_link",
        'described.get("cause"), described.get("context")',
        "None, None",
        "values/test_exceptions.py::test_an_exception_comes_back_with_what_it_carries",
    ),
    "credentials of a response that an exception holds are stored": Mutation(
        "exception_parts._headers",
        "[pair for pair in texts if pair[0].lower() not in SECRET_HEADERS]",
        "list(texts)",
        "values/test_exceptions.py::test_an_exception_comes_back_with_what_it_carries",
    ),
    "a property of a class runs because a row names it": Mutation(
        "_make",
        "set_attribute(error, name, _CODER.read(value))",
        "setattr(error, name, _CODER.read(value))",
        "values/test_exceptions.py::test_no_code_of_a_class_runs_because_a_row_names_it",
    ),
    # -- values ------------------------------------------------------------------------------------
    "sets are recorded in the order of their hashes": Mutation(
        "_order_sets",
        "sorted(dumped, key=canonical)",
        "dumped",
        "values/test_values.py::test_ordinary_values_are_recorded_as_plain_json",
    ),
    "a value is changed by the check of its type": Mutation(
        "Result.encode",
        "self._fits(again, value)",
        "self._fits(value, value)",
        "values/test_values.py::test_a_validator_that_changes_what_it_is_given_changes_no_value",
    ),
    "an exception that is false becomes a failed tool": Mutation(
        "exceptions._make",
        "next((one for one in made if one is not None), None)",
        "next(filter(None, made), None)",
        "values/test_recorded_exceptions.py::test_an_exception_comes_back_with_its_type_and_text",
    ),
    "an iterable cannot be recorded": Mutation(
        "with_lists",
        "annotation is Iterable or get_origin(annotation) is Iterable",
        "False",
        "steps/test_values_of_runs.py::test_an_iterable_is_recorded_as_a_list",
    ),
    "a subclass loses its fields": Mutation(
        "Result._restores",
        "difference(again, value) is None",
        "True",
        "values/test_values.py::test_a_value_comes_back_as_it_was",
    ),
    "a type that was changed is not noticed": Mutation(
        "Result.decode",
        "problem is not None or not _contains(dumped, stored)",
        "problem is not None",
        "values/test_values.py::test_a_recorded_value_is_checked_against_a_changed_type",
    ),
    "a function without a signature fails with Python's own error": Mutation(
        "receiver_of",
        "_signature(function, name_of(function))",
        "inspect.signature(function)",
        "steps/test_tools.py::test_a_function_without_a_signature_is_refused_and_a_lambda_takes_it",
    ),
    "sync code raises another error than the recorded cancellation": Mutation(
        "exceptions.rebuild",
        "Exception | asyncio.CancelledError",
        "Exception",
        "steps/test_cancelled_steps.py::test_sync_code_raises_both_cancellations_again",
    ),
    # -- which calls are equal ---------------------------------------------------------------------
    "a default that the code changed in place is not compared": Mutation(
        "compared._is_filled",
        "own.keys() == first.keys()",
        "True",
        "values/test_compared.py::test_what_the_code_can_tell_apart_is_different",
    ),
    "the class of an argument is not compared": Mutation(
        "Result._shows",
        "canonical(ComparedCoder(self._coder.classes).write(again)) == canonical(written)",
        "True",
        "steps/test_equal_calls.py::test_calls_that_the_code_can_tell_apart_are_not_equal",
    ),
    "private attributes of an argument are not compared": Mutation(
        "_FilledIn._is_private",
        "bool(made) and _is_filled(inner, *made)",
        "True",
        "values/test_compared.py::test_what_the_code_can_tell_apart_is_different",
    ),
    "what is drawn anew is compared": Mutation(
        "compared._is_filled",
        "difference(one, other) is not None",
        "False",
        "values/test_compared.py::test_what_a_model_fills_in_by_itself_is_no_difference",
    ),
    "a coarse clock makes calls differ": Mutation(
        "_FilledIn._is_filled_field",
        "type(inner) in _FIXED or isinstance(inner, Enum)",
        "False",
        "values/test_compared.py::test_a_model_that_was_made_yesterday_is_the_same_today",
    ),
    "the started file and the worker compare different names": Mutation(
        "ComparedCoder.name_of",
        "module = Path(file).stem",
        "pass",
        "values/test_compared.py::test_the_class_of_the_started_file_is_named_as_in_a_worker",
    ),
    "a default that is drawn to be compared is a step": Mutation(
        "call_outside_run",
        "recorder.current.set(None)",
        "pass",
        "values/test_changed_types.py::test_a_default_that_asks_the_run_is_drawn_for_the_code_only",
    ),
    "attributes of a named tuple are dropped from arguments": Mutation(
        "Arguments.record",
        "_refuse_attributes(raw, name)",
        "pass",
        "values/test_compared.py::test_an_attribute_of_a_named_tuple_is_refused_as_an_argument",
    ),
    "attributes of a named tuple are dropped from results": Mutation(
        "tagged_json._assemble",
        "set_attribute(row, name, inner)",
        "pass",
        "values/test_values.py::test_a_value_comes_back_as_it_was",
    ),
    "attributes of containers are not compared": Mutation(
        "_difference_inside",
        "if mine or others",
        "if False",
        "values/test_values.py::test_an_attribute_of_a_tuple_is_part_of_its_value",
    ),
    # -- classes that a deploy changed -------------------------------------------------------------
    "a new field of a tagged record has no default": Mutation(
        "defaults.complete_fields",
        "default_of(kind, name, complete)",
        "MISSING",
        "values/test_changed_types.py::test_a_new_field_of_a_dataclass_has_its_default",
    ),
    "a new private attribute of a tagged record has no default": Mutation(
        "defaults.complete_private",
        "call_outside_run(info.get_default)",
        "PydanticUndefined",
        "values/test_changed_types.py::test_a_new_field_has_its_default_in_a_tagged_record",
    ),
    "a private attribute that is gone is dropped": Mutation(
        "defaults.complete_private",
        "set(stored).difference(declared)",
        "set()",
        "values/test_changed_types.py::test_what_a_changed_class_has_no_value_for_is_refused",
    ),
    "a new field of a tagged record differs each time": Mutation(
        "Result.decode",
        "(at := difference(copy, value)) is not None",
        "(at := None) is not None",
        "values/test_changed_types.py::test_what_a_changed_class_has_no_value_for_is_refused",
    ),
    "an exception class that was moved is not found": Mutation(
        "exceptions._find_class",
        "moved if usable else found",
        "found",
        "values/test_exceptions.py::test_a_class_is_found_where_its_old_module_has_it_now",
    ),
    "any class of an old module is taken for an exception": Mutation(
        "exceptions._find_class",
        "issubclass(moved, BaseException)",
        "True",
        "values/test_exceptions.py::test_a_class_is_found_where_its_old_module_has_it_now",
    ),
    "an exception of a class of C is a failed tool": Mutation(
        "exceptions._try_to_make",
        'type(vars(base).get("__new__")) is BuiltinFunctionType',
        "False",
        "values/test_exceptions.py::test_an_exception_comes_back_with_what_it_carries",
    ),
    "an exception that nothing can make again is a failed tool": Mutation(
        "exceptions._rebuild",
        "not issubclass(kind, BaseExceptionGroup)",
        "False",
        "values/test_exceptions.py::test_an_exception_that_nothing_can_make_again_is_caught_by_its_base",
    ),
    "a generic model that only the body names strands the run": Mutation(
        "Coder.find",
        "names and origin and arguments",
        "False",
        "values/test_changed_types.py::test_a_generic_model_that_only_the_body_names_is_made_again",
    ),
    "a row makes a class whose making runs code": Mutation(
        "generics.make_class",
        "_has_hook(origin)",
        "False",
        "values/test_changed_types.py::test_a_row_makes_no_other_class",
    ),
}
