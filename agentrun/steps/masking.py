"""How users configure masking: `agentrun.mask` for viewers, `masked=` for the code as well."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from agentrun.core import secrets
from agentrun.core.covered import ToolPaths, mask_path, register
from agentrun.core.errors import ConfigError
from agentrun.core.events import Json
from agentrun.core.naming import fold
from agentrun.core.rules import CredentialRule
from agentrun.values.arguments import Arguments
from agentrun.values.typed_values import Result

__all__ = ["Covered", "mask", "refuse_credential"]

# Without the secrets of this process's environment: a name must be accepted in every process.
_CREDENTIALS = secrets.Masker()
_LIKE = "[masked: any, 1 chars, #000000]"


def mask(
    *,
    names: Iterable[str] = (),
    patterns: Iterable[str] | Mapping[str, str] = (),
    off: bool | Iterable[str] | None = None,
) -> None:
    """Set what is masked in the values that this process writes, where people see them.

    It applies to the whole process from now on, and adds to earlier calls. The agent's code sees
    exact values all the same. Call it in the agent's file, so that workers call it too.

    Args:
        names: further names whose values are secret. They are compared as words:
            ``"card_number"`` also matches ``cardNumber`` and ``Card-Number``.
        patterns: regular expressions of further secrets; a mapping gives the name that appears
            in their masks. If a pattern has a group ``secret``, only that group is masked.
        off: True masks nothing at all, False masks again; or the kinds of masks to leave out, as
            in ``["jwt", "password"]``.

    Raises:
        ConfigError: a name has no word in it, or a pattern is malformed or matches an empty text.

    Example::

        agentrun.mask(names=["iban"], patterns={"badge": r"EMP-\\d{6}"}, off=["jwt"])
    """
    kinds = patterns if isinstance(patterns, Mapping) else None
    if isinstance(names, str) or isinstance(patterns, str) or isinstance(off, str):
        raise ConfigError("mask() takes lists: names=[…], patterns=[…], off=[…]")
    for name in names if isinstance(names, (list, tuple, set, frozenset)) else (names := [*names]):
        if not isinstance(name, str) or not fold(name):
            raise ConfigError(f"mask(names=…): {name!r} is not a name: it has no word in it")
    named = list(kinds.items()) if kinds is not None else [("secret", one) for one in patterns]
    rules = [_rule(kind, pattern) for kind, pattern in named]
    secrets.mask.rules.add(names, rules)
    if isinstance(off, bool):
        secrets.mask.rules.switch(off=off)
    elif off is not None:
        secrets.mask.rules.leave_out(off)


def refuse_credential(what: str, name: str) -> None:
    """Raise ConfigError if a name holds a credential, because names are stored and shown unmasked.

    ``what`` says which name it is, as in "the run key". The credential itself is not shown.
    """
    shown = _CREDENTIALS.text(name)
    if shown != name:
        raise ConfigError(
            f"{what} {shown!r} holds what looks like a credential, and is stored and shown as it "
            "is: choose another"
        )


def _rule(kind: str, pattern: str) -> CredentialRule:
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"mask(patterns=…): {pattern!r} is malformed: {error}") from None
    if compiled.search("") is not None:
        raise ConfigError(f"mask(patterns=…): {pattern!r} matches an empty text")
    return CredentialRule(re.sub(r"[\[\]\n]", " ", str(kind))[:60], "", pattern, flags=0)


class Covered:
    """Values that are never stored: `masked=` of a tool, a step or an agent.

    Each is the name of a parameter, or with dots a field in its value; "result" is the returned
    value. The journal holds a mask, and the code sees that mask too, both live and resumed.
    """

    def __init__(self, names: Sequence[str], arguments: Arguments, what: str) -> None:
        if isinstance(names, str):
            raise ConfigError(f"{what}: masked={names!r} is a string; write masked=({names!r},)")
        self.paths = [tuple(name.split(".")) for name in names]
        self._known_names = list(arguments.names)
        for path in self.paths:
            if path[0] not in (*arguments.names, "result") or "" in path:
                known = ", ".join([*arguments.names, "result"])
                raise ConfigError(f"{what}: masked={'.'.join(path)!r} is none of {known}")
        self.parameters = {path[0] for path in self.paths} - {"result"}
        results = [path[1:] for path in self.paths if path[0] == "result"]
        if () in results and not _takes_text(arguments.result.annotation):
            raise ConfigError(
                f"{what}: its result is masked, and a mask is a string: declare -> str"
            )
        if results:
            arguments.result = _CoveredResult(arguments.result, results)

    def cover(self, args: dict[str, Json]) -> dict[str, Json]:
        """Recorded arguments, with masks in place of the values that are never stored."""
        for path in self.paths:
            if path[0] != "result":
                args = mask_path(args, path, whole=True)
        return args

    def cover_replies(self, tool: str, function: Any) -> None:
        """Mask the arguments already in the model's reply, because replies are stored."""
        paths = ToolPaths(
            tool, [path for path in self.paths if path[0] != "result"], self._known_names
        )
        self._in_replies = paths  # keeps the registration for as long as the tool exists
        register(paths, f"{function.__module__}.{getattr(function, '__qualname__', tool)}")

    def check_texts(self, annotations: Mapping[str, Any], what: str) -> None:
        """Refuse parameters that ``what`` sees masked and whose type cannot hold a mask."""
        for path in self.paths:
            if len(path) == 1 and path[0] != "result" and not _takes_text(annotations[path[0]]):
                raise ConfigError(
                    f"{what}: {path[0]!r} is masked for its code, too, and a mask is a string: "
                    "declare it as str"
                )


class _CoveredResult(Result):
    """A result that is recorded with masks."""

    def __init__(self, result: Result, paths: Sequence[tuple[str, ...]]) -> None:
        super().__init__(result.annotation)
        self._paths = paths

    def record(self, value: Any, name: str) -> Json:
        stored = {"result": super().record(value, name)}
        for path in self._paths:
            stored = mask_path(stored, ("result", *path))
        return stored["result"]


def _takes_text(annotation: Any) -> bool:
    try:
        return bool(TypeAdapter(annotation).validate_python(_LIKE) == _LIKE)
    except (ValidationError, TypeError):
        return False
