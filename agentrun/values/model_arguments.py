"""Checks that each argument that a model sent has the JSON type of its parameter.

By default pydantic makes 1 of ``true``, 1000 of ``"1_000"`` and True of ``"yes"``, so that a tool
could make a payment that the model did not ask for. So the arguments of a model are not converted.
Arguments that code passes still are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from agentrun.core.events import Json

__all__ = ["describe_problems", "wrong_types"]

_NAMES: dict[type, str] = {
    bool: "a boolean", int: "a number", float: "a number", str: "a string",
    list: "an array", dict: "an object", type(None): "null",
}  # fmt: skip


def wrong_types(model: type[BaseModel], arguments: dict[str, Json]) -> str:
    """Describe the arguments whose JSON type differs from their parameter's; empty if none does.

    A string is accepted for types that JSON lacks: a date, a UUID, an enum. An integer may be
    written as 5.0.
    """
    # pydantic's reader refuses lone surrogates; they are replaced, as they do not change a type.
    text = json.dumps(arguments, ensure_ascii=False).encode("utf-8", "replace")
    try:
        model.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        if problems[0]["type"] == "json_invalid" and len(arguments) > 1:
            # pydantic refuses the whole text if one argument is, say, 250 levels deep. So the
            # arguments are checked one by one.
            alone = (wrong_types(model, {name: value}) for name, value in arguments.items())
            return "; ".join(filter(None, alone))
        return describe_problems([one for one in problems if not _is_harmless(one)])
    return ""


def describe_problems(problems: Sequence[Any]) -> str:
    """pydantic's errors as a text: each parameter, the expected type and the received type."""
    return "; ".join(map(_describe_problem, problems))


def _describe_problem(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"])) or "arguments"
    return f"{place}: {problem['msg']}{_received_type(problem)}"


def _received_type(problem: Any) -> str:
    received = _NAMES.get(type(problem["input"]))
    return f", not {received}" if received and problem["type"].endswith("_type") else ""


def _is_harmless(problem: Any) -> bool:
    """Whether an error is no wrong type.

    That is: an integer written as 5.0, JSON too deep for pydantic's reader, or an argument that is
    missing because arguments are checked one by one.
    """
    value = problem["input"]
    whole = problem["type"] == "int_type" and isinstance(value, float) and value.is_integer()
    return whole or problem["type"] in ("json_invalid", "missing")
