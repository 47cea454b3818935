"""What Home Assistant is told of a device: MQTT discovery, one retained message for each.

https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload (2024.11 and later). The
values come from the status that a device retains anyway: nothing is added on the device. Pure but
for `publish`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

import edgekit
from edgekit.core import topics, wire
from edgekit.core.config import BrokerConfig
from edgekit.core.reasons import FAILURE, PUBACK_NAMES
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.mqtt.threaded import MqttClient

PUBACK_SECONDS = 10.0
_LETTER = re.compile(r"[^A-Za-z0-9-]")
_GONE = "{{ 'offline' if value_json.state in ('lost', 'offline') else 'online' }}"


def object_id(device: str) -> str:
    """A device's name in letters, digits, `-` and `_`, for Home Assistant; no two are alike."""
    return "edgekit_" + _LETTER.sub(lambda found: f"_{ord(found[0]):02x}", device)


def discovery(device: str, card: Mapping[str, Any]) -> bytes:
    """The discovery message of a device.

    Args:
        device: its name.
        card: its retained card; may lack what another program left out.
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
    model = ":".join(str(card.get(key, "?")) for key in ("model", "version"))
    told = {
        "dev": {
            "identifiers": [own],
            "name": device,
            "manufacturer": "edgekit",
            "model": model,
            "sw_version": str(card.get("agent", "")) or "?",
        },
        "o": {"name": "edgekit", "sw_version": edgekit.__version__},
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
                unit_of_measurement="MB",
                **measured,
            ),
        },
    }
    return msgspec.json.encode(told)


def publish(broker: BrokerConfig, name: str, messages: Mapping[str, bytes]) -> None:
    """Retain a message on each topic; an empty one removes what is there.

    Args:
        broker: with an account that may write there.
        name: our name as a requester.
        messages: by topic.

    Raises:
        UnreachableError: the broker does not answer.
        EdgekitError: it refuses a topic.
    """
    client = MqttClient(
        broker,
        f"edgekit-{name}-{uuid.uuid4().hex[:12]}",
        subscriptions=[],
        on_message=lambda _: None,
        retained=True,
    )
    client.connect()
    try:
        for topic, payload in messages.items():
            sent = client.publish(wire.Outbound(topic, payload, retain=True))
            try:
                code = sent.result(timeout=PUBACK_SECONDS)
            except TimeoutError:
                raise UnreachableError(
                    f"the broker at {broker} did not confirm {topic}", "", "run it again"
                ) from None
            if code >= FAILURE:
                raise EdgekitError(
                    f"the broker refused {topic}",
                    PUBACK_NAMES.get(code, f"reason code 0x{code:02x}"),
                    "use an account that may write there: --username NAME --password-file FILE",
                )
    finally:
        client.close(PUBACK_SECONDS)
