"""What Home Assistant is told of a device: MQTT discovery, one retained message for each.

https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload (2024.11 and later). The
values come from the status that a device retains anyway: nothing is added on the device. Pure.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from edgekit.core.protocol import topics

_OWN = "edgekit_"  # begins the name of each device's entry
_LETTER = re.compile(r"[^A-Za-z0-9-]")
_WRITTEN = re.compile(r"(?:_[0-9a-f]{2})+")
_GONE = "{{ 'offline' if value_json.state in ('lost', 'offline') else 'online' }}"


def object_id(device: str) -> str:
    """A device's name in letters, digits, `-` and `_`, for Home Assistant; no two are alike."""
    return _OWN + _LETTER.sub(lambda found: "_" + found[0].encode().hex("_"), device)


def device_of(topic: str) -> str:
    """The device whose discovery message is at this topic; empty for one that is not edgekit's."""
    _, _, rest = topic.partition(f"/{_OWN}")

    def read(found: re.Match[str]) -> str:
        return bytes.fromhex(found[0].replace("_", "")).decode(errors="replace")

    name = _WRITTEN.sub(read, rest.partition("/")[0])
    return name if name and topics.discovery_topic(object_id(name)) == topic else ""


def discovery(device: str, model: str, version: str, agent: str) -> bytes:
    """The discovery message of a device, the same whether the device or an operator publishes it.

    Args:
        device: its name.
        model: that it serves, of this `version`.
        agent: the version of its agent.
    """
    own, status = object_id(device), topics.status_topic(device)

    def sensor(key: str, name: str, value: str, **more: Any) -> dict[str, Any]:
        return {
            "p": "sensor",
            "name": name,
            "unique_id": f"{own}_{key}",
            "state_topic": status,
            "value_template": value,
        } | more

    alive = {"availability_topic": status, "availability_template": _GONE}
    measured = alive | {"state_class": "measurement"}
    told = {
        "dev": {
            "identifiers": [own],
            "name": device,
            "manufacturer": "edgekit",
            "model": f"{model}:{version}",
            "sw_version": agent or "?",
        },
        "o": {"name": "edgekit", "sw_version": agent or "?"},
        "cmps": {
            "state": sensor("state", "State", "{{ value_json.state }}"),
            "release": sensor(
                "release",
                "Release",
                "{{ (value_json.release | default('sha256:unknown'))[7:19] }}",
                entity_category="diagnostic",
            ),
            "queue": sensor("queue", "Queue", "{{ value_json.queue | default(0) }}", **measured),
            "tokens": sensor(
                "tokens",
                "Speed",
                "{{ value_json.tok_s | default(0) | round(1) }}",
                unit_of_measurement="tokens/s",
                **measured,
            ),
            "temperature": sensor(
                "temperature",
                "Temperature",
                "{{ value_json.temp_c | default(none) }}",
                device_class="temperature",
                unit_of_measurement="°C",
                **measured,
            ),
            "memory": sensor(
                "memory",
                "Free memory",
                "{{ value_json.mem_free_mb | default(none) }}",
                device_class="data_size",
                unit_of_measurement="MiB",
                **measured,
            ),
        },
    }
    return msgspec.json.encode(told)
