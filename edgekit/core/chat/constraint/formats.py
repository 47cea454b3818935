"""The fields of a prompt that say what its answer must look like."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

MAX_SOURCE_BYTES = 64 * 1024  # of a schema, a regular expression or a grammar

Source = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_SOURCE_BYTES)]


class TextFormat(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"
):
    """Any text, as without a format."""


class JsonObjectFormat(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"
):
    """Any JSON object."""


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"of": "schema"}):
    """A JSON Schema under a name; it is enforced whatever `strict` says."""

    of: dict[str, Any]
    name: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"
):
    """JSON that is valid against a schema."""

    json_schema: JsonSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat
FORMATS: dict[object, type[msgspec.Struct]] = {
    "text": TextFormat,
    "json_object": JsonObjectFormat,
    "json_schema": JsonSchemaFormat,
}
