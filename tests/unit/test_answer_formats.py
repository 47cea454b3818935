"""What of a schema, a grammar and a regular expression is taken, and where a refusal points."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import jsonschema
import pytest

from edgekit.core.chat.body import parse_body
from edgekit.core.chat.constraint.constraint import Constraint, constraint_of
from edgekit.core.protocol.wire import ProtocolError

SCHEMA = "response_format.json_schema.schema"


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], **fields}


def asked(encoding: str = "", **fields: Any) -> Constraint | None:
    written = cbor2.dumps(body(**fields)) if encoding else json.dumps(body(**fields)).encode()
    return constraint_of(parse_body(written, encoding))


def with_schema(schema: Any, encoding: str = "", **more: Any) -> Constraint | None:
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}}
    return asked(encoding, response_format=form)


def refused(**fields: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        asked(**fields)
    return caught.value


def refused_schema(schema: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        with_schema(schema)
    assert caught.value.param == SCHEMA
    return caught.value


def test_no_format_and_text_ask_for_nothing() -> None:
    assert asked() is asked(response_format={"type": "text"}) is asked(response_format=None) is None
    assert asked(response_format={"type": "text", "json_schema": None}) is None


def test_a_json_object_is_the_schema_of_any_object() -> None:
    assert asked(response_format={"type": "json_object"}) == Constraint(
        "json_schema", '{"type":"object"}'
    )


@pytest.mark.parametrize("encoding", ["", "cbor"])
def test_a_schema_keeps_the_order_of_its_properties_and_loses_its_annotations(
    encoding: str,
) -> None:
    schema = {
        "$id": "https://example.org/it",
        "title": "It",
        "type": "object",
        "properties": {
            "z": {"type": "string", "description": "last"},
            "a": {"const": {"title": 1}},
        },
        "required": ["z"],
        "deprecated": True,
    }
    made = with_schema(schema, encoding, strict=True, description="d")
    assert made is not None
    assert made.param == SCHEMA
    assert made.source == (
        '{"type":"object","properties":{"z":{"type":"string"},"a":{"const":{"title":1}}},'
        '"required":["z"]}'
    )


@pytest.mark.parametrize("number", ["07", "06", "04"])
def test_what_stands_beside_a_reference_says_nothing_in_older_drafts(number: str) -> None:
    """As jsonschema has it; it was enforced, and what is not served there was refused."""
    dialect = {"$schema": f"http://json-schema.org/draft-{number}/schema#"}
    own = {"definitions": {"a": {"type": "integer"}}}
    beside = {"$ref": "#/definitions/a", "maximum": 3, "nullable": True, "not": {}}
    schema = {"type": "array", "items": beside, **own}
    assert jsonschema.validators.validator_for(dialect)(dialect | schema).is_valid([7])
    for encoding in ("", "cbor"):
        made = with_schema(dialect | schema, encoding)
        assert made is not None
        told = dialect | schema | {"items": {"$ref": "#/definitions/a"}}
        assert json.loads(made.source) == told
        whole = with_schema(dialect | beside | own, encoding)
        assert whole is not None
        assert json.loads(whole.source) == dialect | {"$ref": "#/definitions/a"} | own
    # endless by itself, whatever would end it
    error = refused_schema(dialect | {"$ref": "#", "type": "string"})
    assert "a recursion that no finite answer ends" in error.what
    for later in ({}, {"$schema": "https://json-schema.org/draft/2019-09/schema"}):
        assert "'nullable'" in refused_schema(later | schema).what


@pytest.mark.parametrize(
    ("schema", "code", "said"),
    [
        ({"properties": {"a/b": {"not": {}}}}, "unsupported_parameter", "'not'|/properties/a~1b"),
        ({"anyOf": [{}, {"uniqueItems": True}]}, "unsupported_parameter", "'uniqueItems'|/anyOf/1"),
        ({"x-guidance": {"lenient": True}}, "unsupported_parameter", "'x-guidance'|the root"),
        ({"items": {"format": "zip"}}, "unsupported_parameter", "'zip'|/items/format"),
        ({"$ref": "https://example.org/a"}, "unsupported_parameter", "leads out|/$ref"),
        ({"$ref": "#/$defs/a"}, "invalid_request", "leads to no schema|/$ref"),
        ({"items": {"type": "text"}}, "invalid_request", "type is one|/items/type"),
        ({"items": {"type": []}}, "invalid_request", "type is one|/items/type"),
        ({"minItems": -1}, "invalid_request", "whole number|/minItems"),
        ({"minItems": True}, "invalid_request", "whole number|/minItems"),
        ({"maximum": "5"}, "invalid_request", "a number|/maximum"),
        ({"multipleOf": 0}, "invalid_request", "above 0|/multipleOf"),
        ({"required": "a"}, "invalid_request", "list of names|/required"),
        ({"enum": []}, "invalid_request", "list of values|/enum"),
        ({"anyOf": []}, "invalid_request", "list of schemas|/anyOf"),
        ({"properties": []}, "invalid_request", "object of schemas|/properties"),
        ({"items": 5}, "invalid_request", "a schema is|/items"),
        ({"pattern": 5}, "invalid_request", "a string|/pattern"),
    ],
)
def test_what_is_not_served_is_refused_with_its_place(schema: Any, code: str, said: str) -> None:
    error = refused_schema(schema)
    assert error.code == code
    what, place = said.split("|")
    assert what in error.what
    assert error.what.endswith(f", at {place} of the schema")


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"$ref": "#"}, "the root"),
        ({"allOf": [{"$ref": "#"}]}, "/allOf/0"),
        (
            {
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                "$ref": "#/$defs/a",
            },
            "the root",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
            "/properties/a",
        ),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "/items"),
        ({"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1}, "/prefixItems/0"),
    ],
)
def test_a_recursion_without_an_end_is_refused(schema: Any, place: str) -> None:
    error = refused_schema(schema)
    assert error.what == f"a recursion that no finite answer ends, at {place} of the schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}},
        {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}]},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "type": "string"},
        {"$defs": {"a b": {"type": "string"}}, "$ref": "#/$defs/a%20b"},
        {"$defs": {"a": {"type": "object", "properties": {"b/c": {"$ref": "#/$defs/a"}}}},
         "$ref": "#/$defs/a/properties/b~1c"},
    ],
)  # fmt: skip
def test_a_recursion_with_an_end_is_taken(schema: Any) -> None:
    assert with_schema(schema) is not None


@pytest.mark.parametrize(
    "more",
    [
        {"minProperties": 2},
        {"minProperties": 2, "required": ["a"]},
        {"minProperties": 2, "required": ["a", "a"]},
        {"minProperties": 2, "patternProperties": {"^b": {}}, "additionalProperties": False},
    ],
)
def test_free_keys_that_may_come_twice_are_not_counted(more: dict[str, Any]) -> None:
    """`{"a":1,"a":1}` has one key."""
    error = refused_schema({"items": {"type": "object", **more}})
    assert error.code == "unsupported_parameter"
    assert error.what.startswith("minProperties above 1 is served where as many keys are required")
    assert error.what.endswith("at /items/minProperties of the schema")


def test_a_count_of_keys_that_are_required_is_taken() -> None:
    assert with_schema({"type": "object", "minProperties": 1}) is not None
    assert with_schema({"required": ["a", "b"], "minProperties": 2}) is not None


def test_the_size_and_the_depth_of_a_schema_are_bounded() -> None:
    assert "levels" in refused_schema(nested(60)).what
    assert with_schema(nested(40)) is not None
    many: dict[str, Any] = {"anyOf": [{"const": n} for n in range(4001)]}
    assert "4000 schemas" in refused_schema(many).what
    assert "bytes; at most 65536" in refused_schema({"enum": ["x" * 1000] * 70}).what
    error = refused(grammar='start: "ä' + "ä" * 40_000 + '"')
    assert (error.code, error.param) == ("invalid_request", "grammar")


@pytest.mark.parametrize("key", ["anyOf", "allOf", "items"])
def test_a_long_chain_of_references_is_refused_with_its_place(key: str) -> None:
    """The compiler follows it by recursion; 1500 ended the model's process."""
    assert with_schema(chained(200, key)) is not None
    for length in (201, 1000):
        error = refused_schema(chained(length, key))
        assert error.code == "unsupported_parameter"
        assert error.what == (
            "references lead over more than 200 schemas in a row, at /$defs/0 of the schema"
        )


def test_many_references_beside_each_other_or_in_a_small_circle_are_taken() -> None:
    own: dict[str, Any] = {f"{n}": {"type": "string"} for n in range(500)}
    wide = {"$defs": own, "anyOf": [{"$ref": f"#/$defs/{n}"} for n in own]}
    assert with_schema(wide) is not None
    circle = {"type": "object", "properties": {n: {"$ref": f"#/$defs/{n}"} for n in own}}
    tree = {"type": "array", "items": {"$ref": "#/$defs/tree"}}
    assert with_schema({**circle, "$defs": {**own, "tree": tree}}) is not None


def test_a_long_circle_of_references_is_refused() -> None:
    circle = chained(300, "anyOf")
    circle["$defs"]["300"] = {"anyOf": [{"$ref": "#/$defs/0"}, {"type": "null"}]}
    assert "more than 200 schemas in a row" in refused_schema(circle).what


def chained(length: int, key: str) -> dict[str, Any]:
    """A schema whose references lead from one definition to the next, over so many."""
    own: dict[str, Any] = {}
    for n in range(length - 1):
        below = {"$ref": f"#/$defs/{n + 1}"}
        own[f"{n}"] = {key: below if key == "items" else [below]}
    return {"$defs": {**own, f"{length - 1}": {"type": "string"}}, "$ref": "#/$defs/0"}


def test_the_rules_of_a_grammar_are_counted() -> None:
    def rules(count: int, name: str = "r") -> str:
        chain = "".join(f"{name}{n}: {name}{n + 1}\n" for n in range(count - 2))
        return f'start: {name}0\n{chain}{name}{count - 2}: /:/ "::" // :\n'

    assert asked(grammar=rules(500)) is not None
    for name in ("r", "R"):
        error = refused(grammar=rules(501, name))
        assert error.param == "grammar"
        assert error.what == "more than 500 rules and terminals (line 501, column 5)"


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_a_number_that_json_does_not_have_is_refused_in_cbor() -> None:
    for value in (float("inf"), b"bytes"):
        with pytest.raises(ProtocolError) as caught:
            with_schema({"const": [value]}, "cbor")
        assert caught.value.what.endswith("JSON does not have, at /const/0 of the schema")


def test_only_one_of_the_three_fields_says_what_an_answer_looks_like() -> None:
    error = refused(regex="a", grammar='start: "a"')
    assert (error.code, error.param) == ("invalid_request", "regex")
    assert refused(regex="a", response_format={"type": "json_object"}).param == "regex"
    assert asked(regex="a", response_format={"type": "text"}) == Constraint(
        "regex", "a", param="regex"
    )


def test_beam_search_takes_no_format() -> None:
    error = refused(regex="a", num_beams=2)
    assert (error.code, error.param) == ("unsupported_parameter", "num_beams")


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ('start: "a" <|im_end|>', "<|im_end|> names a token"),
        ("start: <[1-5]>", "<[1-5]> names a token"),
        ('start: "a"\n# "\nb: <x>', "<x> names a token"),
        ("start: /a\\/<b>/ <c>", "<c> names a token"),
        ("start: @other", "@other names another grammar"),
        ("%llguidance {}\nstart: /a/", "%llguidance is not served"),
        ('start: %lark { start: "a" }', "%lark is not served"),
        ('start: %json {"not": {}}', "the keyword 'not' is not served"),
        ('start: %json {"x-guidance": {}}', "'x-guidance' is not served"),
        ("start: %json nothing", "%json has no JSON behind it"),
        ("start: a\na[temperature=0.5]: /a/", "the option temperature is not served"),
        ('start: a\na[stop = "b"]: /a/', "the option stop is not served"),
        ('root ::= "a"', "is GBNF"),
    ],
)
def test_a_requesters_grammar_is_text_alone(grammar: str, said: str) -> None:
    error = refused(grammar=grammar)
    assert (error.code, error.param) == ("invalid_request", "grammar")
    assert said in error.what


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "<|im_end|>" /<b>/ // <c>\n',
        'start: "a" # <c>',
        'start: stop\nstop: "stop="',
        'start: %json {"type": "object", "properties": {"a": {"const": "<x>"}}} "."',
        'start: %regex {"substring_words": "a <b> c"}',
        "%import common.INT\nstart: INT",
        "start: a\na[lazy]: /a+;/",
    ],
)
def test_a_grammar_of_text_is_taken(grammar: str) -> None:
    assert asked(grammar=grammar) == Constraint("lark", grammar, param="grammar")
