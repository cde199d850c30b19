"""The OpenAPI document of the JSON twins, made of the list of pages and of their data's types."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from agentrun.core.transcript import Transcript
from agentrun.web.site import Action, PageRoute

__all__ = ["describe_pages"]

_PLAIN: dict[Any, dict[str, str]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Decimal: {"type": "string", "description": "a decimal number"},
    datetime: {"type": "string", "format": "date-time"},
    UUID: {"type": "string", "format": "uuid"},
    Transcript: {"type": "object", "description": "as Transcript.to_dict() has it"},
}


def describe_pages(
    pages: Iterable[PageRoute], actions: Iterable[Action], root: str
) -> dict[str, Any]:
    """The OpenAPI document."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for page in pages:
        if page.data is not None:
            paths[page.twin] = {"get": _operation(page, _schema(page.data, schemas))}
    for action in actions:
        done = {
            "type": "object",
            "properties": {"key": {"type": "string"}, "letter": {"type": ["string", "null"]}},
        }
        form = {
            "type": "object",
            "properties": _texts(action.fields),
        }
        operation = _operation(action, done)
        operation["requestBody"] = {"content": {"application/json": {"schema": form}}}
        paths.setdefault(f"/{action.path}.json", {})["post"] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentrun", "version": "1"},
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(page: PageRoute, answer: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        for name, text in page.parameters.items()
    ]
    content = {"application/json": {"schema": answer}}
    return {
        "summary": page.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": page.summary, "content": content},
            "default": {"description": "refused: error.code and error.message say why"},
        },
    }


def _texts(members: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"type": "string", "description": text} for name, text in members.items()}


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a type; that of a dataclass goes to ``schemas``, under its name."""
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if kind is type(None):
        return {"type": "null"}
    if is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in schemas:
            schemas[kind.__name__] = {}
            schemas[kind.__name__] = _object(kind, schemas)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(one, schemas) for one in arguments]}
    if origin in (tuple, list):
        return {"type": "array", "items": _schema(arguments[0], schemas)}
    if origin is dict or kind is dict:
        return {"type": "object"}
    return {}  # any JSON value


def _object(kind: type, schemas: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    members = {field.name: _schema(hints[field.name], schemas) for field in fields(kind)}
    text = (kind.__doc__ or "").strip().partition("\n\n")[0]
    return {
        "type": "object",
        "description": " ".join(text.split()),
        "properties": members,
        "required": list(members),
    }
