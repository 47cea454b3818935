"""What Home Assistant is told of a device, held against what its documentation asks for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jinja2
import jsonschema
import msgspec
import pytest

from edgekit.agent.serve.loop.sensors import read_sensors
from edgekit.core.protocol import topics, wire
from edgekit.core.protocol.discovery import device_of, discovery, object_id

SAYS = ("smollm2", "3", "0.1.0")
# https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload and sensor.mqtt:
# a device needs identifiers or connections, an origin its name, a component its platform and a
# unique_id; a temperature has a unit of temperature, and a measurement a unit or none.
SCHEMA = {
    "type": "object",
    "required": ["dev", "o", "cmps"],
    "additionalProperties": False,
    "properties": {
        "dev": {
            "type": "object",
            "required": ["identifiers", "name"],
            "additionalProperties": False,
            "properties": {
                "identifiers": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                **{
                    name: {"type": "string", "minLength": 1}
                    for name in ("name", "manufacturer", "model", "sw_version")
                },
            },
        },
        "o": {"type": "object", "required": ["name"]},
        "cmps": {
            "type": "object",
            "minProperties": 5,
            "propertyNames": {"pattern": "^[a-zA-Z0-9_-]+$"},
            "additionalProperties": {
                "type": "object",
                "required": ["p", "unique_id", "state_topic", "value_template", "name"],
                "additionalProperties": False,
                "properties": {
                    "p": {"const": "sensor"},
                    "state_class": {"const": "measurement"},
                    "entity_category": {"const": "diagnostic"},
                    "device_class": {"enum": ["temperature", "data_size"]},
                    **{
                        name: {"type": "string", "minLength": 1}
                        for name in (
                            *("name", "unique_id", "state_topic", "value_template"),
                            *("availability_topic", "availability_template"),
                            "unit_of_measurement",
                        )
                    },
                },
                "allOf": [
                    {
                        "if": {
                            "properties": {"device_class": {"const": "temperature"}},
                            "required": ["device_class"],
                        },
                        "then": {"properties": {"unit_of_measurement": {"const": "°C"}}},
                    }
                ],
            },
        },
    },
}


@pytest.mark.parametrize("name", ["pi-1", "kitchen.2", "a_b", "x" * 64])
def test_the_message_is_as_the_documentation_says(name: str) -> None:
    told = json.loads(discovery(name, *SAYS))
    jsonschema.validate(told, SCHEMA)
    ids = [each["unique_id"] for each in told["cmps"].values()]
    assert len(set(ids)) == len(ids)
    assert {each["state_topic"] for each in told["cmps"].values()} == {topics.status_topic(name)}
    topic = topics.discovery_topic(object_id(name))
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic)
    jsonschema.validate(json.loads(discovery(name, "", "", "")), SCHEMA)


def test_free_memory_has_the_unit_that_a_device_counts_in(tmp_path: Path) -> None:
    """Home Assistant converts between MB and MiB, and a device has the kernel's kB >> 10."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4194304 kB\nMemFree: 1 kB\nMemAvailable: 1048576 kB\n")
    assert read_sensors(tmp_path, meminfo).mem_free_mb == 1024
    memory = json.loads(discovery("pi-1", *SAYS))["cmps"]["memory"]
    assert memory["unit_of_measurement"] == "MiB"


def test_no_two_names_are_one_device_there() -> None:
    names = ["a.b", "a_b", "a-b", "a_2eb", "a__b", "A.b"]
    assert len({object_id(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "name", ["pi-1", "a.b", "a_b", "a_2eb", "a__b", "A.b", "pi ü", "\u1234", "_"]
)
def test_a_topic_names_its_device(name: str) -> None:
    assert device_of(topics.discovery_topic(object_id(name))) == name


@pytest.mark.parametrize("other", ["lamp", "edgekit_", "edgekit_a_b", "edgekit_a.b", "edgekit__ff"])
def test_a_topic_that_is_not_edgekit_s_names_no_device(other: str) -> None:
    assert device_of(topics.discovery_topic(other)) == ""


def test_the_templates_read_a_real_status() -> None:
    """Home Assistant's templates are Jinja: rendered with `value_json` as it does."""
    release = "sha256:" + "0123456789ab" + "0" * 52
    status = wire.Status("busy", release, 2, 1, 11.25, 80.0, temp_c=51, mem_free_mb=700)
    told = json.loads(discovery("pi-1", *SAYS))["cmps"]

    def shown(value: object) -> dict[str, str]:
        body = json.loads(msgspec.json.encode(value))
        templates = {key: each["value_template"] for key, each in told.items()}
        templates["there"] = told["queue"]["availability_template"]
        return {
            key: jinja2.Template(text).render(value_json=body) for key, text in templates.items()
        }

    assert shown(status) == {
        "state": "busy", "release": "0123456789ab", "queue": "2", "tokens": "11.2",
        "temperature": "51", "memory": "700", "there": "online",
    }  # fmt: skip
    lost = shown({"state": "lost"})
    assert (lost["state"], lost["there"], lost["temperature"]) == ("lost", "offline", "None")
