"""Rewrite a JSON schema so that providers accept it as strict.

The rules are those that OpenAI publishes for structured outputs ("Supported schemas"): every object
is closed, every property is required, every value has a type, and only the keywords in `_KEYWORDS`
are used. A schema that cannot be rewritten like this is sent as a schema that is not strict.
"""

from __future__ import annotations

from agentrun.core.events import Json
from agentrun.core.json_types import is_array, is_object

__all__ = ["strict"]

_KEYWORDS = frozenset(
    {
        "type", "enum", "const", "properties", "required", "additionalProperties", "items", "anyOf",
        "$ref", "$defs", "description", "default", "pattern", "format", "minimum", "maximum",
        "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems",
    }
)  # fmt: skip
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!")
_DEEPEST = 10  # levels of objects
_MOST_PROPERTIES = 5_000
_MOST_VALUES = 1_000  # values of all enums together


class _Loose(Exception):
    """The schema cannot be strict."""


class _Writer:
    """Writes one schema in its strict form, and counts its properties and enum values."""

    def __init__(self, definitions: dict[str, Json]) -> None:
        self._definitions = definitions
        self._properties = self._values = 0

    def whole(self, schema: dict[str, Json]) -> dict[str, Json]:
        """The strict schema of a tool's parameters. At the top level, null means the default."""
        written = self._object(schema, 1, null_is_default=True)
        if self._definitions:
            written["$defs"] = {
                name: self._schema(value, 1) for name, value in self._definitions.items()
            }
        return written

    def _schema(self, schema: Json, level: int) -> dict[str, Json]:
        if not is_object(schema) or not _KEYWORDS.issuperset(schema):
            raise _Loose
        if "$ref" in schema:
            return self._reference(schema)
        if "anyOf" in schema:
            kept = {name: schema[name] for name in ("description",) if name in schema}
            return {"anyOf": [self._schema(one, level) for one in schema["anyOf"]], **kept}
        written = {name: value for name, value in schema.items() if name != "default"}
        if "const" in written:
            written["enum"] = [written.pop("const")]
        kinds = written.get("type")
        kinds = kinds if is_array(kinds) else [kinds]
        if not kinds or not _TYPES.issuperset(kinds):
            raise _Loose  # an untyped parameter, or Any, takes any value
        self._check(written)
        if "object" in kinds:
            return self._object(written, level, null_is_default=False)
        if "array" in kinds:
            written["items"] = self._schema(schema.get("items"), level)
        return written

    def _reference(self, schema: dict[str, Json]) -> dict[str, Json]:
        """A reference may have no other keyword beside it: a description goes around it."""
        if "description" not in schema:
            return {"$ref": schema["$ref"]}
        return {"anyOf": [{"$ref": schema["$ref"]}], "description": schema["description"]}

    def _check(self, schema: dict[str, Json]) -> None:
        self._values += len(schema.get("enum", ()))
        pattern, form = schema.get("pattern", ""), schema.get("format")
        unusual = form is not None and form not in _FORMATS
        if unusual or any(token in pattern for token in _LOOKAROUND) or self._values > _MOST_VALUES:
            raise _Loose

    def _object(
        self, schema: dict[str, Json], level: int, *, null_is_default: bool
    ) -> dict[str, Json]:
        properties = schema.get("properties", {} if null_is_default else None)
        if not is_object(properties) or schema.get("additionalProperties", False) is not False:
            raise _Loose  # an object with free keys
        self._properties += len(properties)
        if level > _DEEPEST or self._properties > _MOST_PROPERTIES:
            raise _Loose
        required = schema.get("required", ())
        written: dict[str, Json] = {}
        for name, value in properties.items():
            written[name] = self._schema(value, level + 1)
            if name not in required and not self._takes_null(written[name]):
                if not null_is_default:
                    raise _Loose  # required, but the type takes no null in place of the default
                written[name] = _nullable(written[name])
        kept = {name: schema[name] for name in ("description",) if name in schema}
        return {
            "type": schema.get("type", "object"),
            "properties": written,
            "required": list(written),
            "additionalProperties": False,
            **kept,
        }

    def _takes_null(self, schema: dict[str, Json]) -> bool:
        if "$ref" in schema:
            name = str(schema["$ref"]).rpartition("/")[2]
            return "null" in str(self._definitions.get(name, {}).get("type"))
        if "anyOf" in schema:
            return any(self._takes_null(one) for one in schema["anyOf"])
        kinds = schema.get("type")
        return kinds == "null" or (is_array(kinds) and "null" in kinds)


def strict(schema: dict[str, Json]) -> dict[str, Json] | None:
    """The strict form of the schema of a tool's parameters; None if there is no such form.

    An optional parameter becomes a required one that may be null.
    """
    definitions = schema.get("$defs", {})
    try:
        return _Writer(definitions).whole({k: v for k, v in schema.items() if k != "$defs"})
    except _Loose:
        return None


def _nullable(schema: dict[str, Json]) -> dict[str, Json]:
    """A schema that takes the same values, or null."""
    description = {name: schema[name] for name in ("description",) if name in schema}
    plain = {name: value for name, value in schema.items() if name != "description"}
    options = plain.get("anyOf", [plain])
    return {"anyOf": [*options, {"type": "null"}], **description}
