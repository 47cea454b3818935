"""docs/protocol/asyncapi.yaml as a judge: whether a message is as the document says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from edgekit.core.protocol import topics, wire
from tests import schemas

PATH = Path(__file__).parents[2] / "docs" / "protocol" / "asyncapi.yaml"
BASE = "https://edgekit.invalid/"  # relative references need some base


@dataclass
class Document:
    """The document, with the schemas beside it."""

    content: dict[str, Any] = field(default_factory=lambda: yaml.safe_load(PATH.read_text("utf-8")))

    def __post_init__(self) -> None:
        files = {
            f"{BASE}schemas/{path.name}": json.loads(path.read_text("utf-8"))
            for path in schemas.FOLDER.iterdir()
        }
        files[f"{BASE}asyncapi.yaml"] = self.content
        self._registry: Registry[Any] = Registry().with_resources(
            (name, DRAFT202012.create_resource(content)) for name, content in files.items()
        )

    def part(self, pointer: str) -> Any:
        """What `#/a/b` points to."""
        found: Any = self.content
        for key in pointer.removeprefix("#/").split("/"):
            found = found[key]
        return found

    def validate(self, pointer: str, instance: object) -> None:
        """Whether it fits the schema there."""
        at = {"$ref": f"{BASE}asyncapi.yaml{pointer}"}
        Draft202012Validator(at, registry=self._registry).validate(instance)

    def operations(self, side: str, action: str) -> Iterator[dict[str, Any]]:
        """Those of `device` or `requester`."""
        for operation in self.content["operations"].values():
            if operation["action"] == action and {"name": side} in operation["tags"]:
                yield operation

    def check(self, message: wire.Outbound | wire.Inbound, *, any_qos: bool = False) -> str:
        """Whether a message is as its sender's operation says; its name in the document."""
        kind = dict(message.user).get("ek-kind", "")
        channel, name = self._place(message.topic, kind)
        side = "requester" if name in ("prompt", "control") else "device"
        reference = {"$ref": f"#/channels/{channel}/messages/{name}"}
        (sent,) = [o for o in self.operations(side, "send") if reference in o["messages"]]
        binding = sent["bindings"]["mqtt"]
        assert any_qos or message.qos == binding["qos"], f"{name} with QoS {message.qos}"
        assert message.retain == binding["retain"], f"{name}, retained: {message.retain}"
        if "messageExpiryInterval" in binding:
            Draft202012Validator(binding["messageExpiryInterval"]).validate(message.expiry_seconds)
        part = f"#/components/messages/{name}"
        if "headers" in self.part(part):
            self.validate(f"{part}/headers", headers(message))
        absent = side == "requester" and not message.content_type
        assert absent or message.content_type == self.part(part)["contentType"]
        self.validate(f"{part}/payload", json.loads(message.payload))
        return name

    def _place(self, topic: str, kind: str) -> tuple[str, str]:
        """The channel of a topic, and the name of its message."""
        if kind:
            assert topic.startswith(f"{topics.PREFIX}/res/")
            return "replies", kind
        for name, channel in self.content["channels"].items():
            pattern = re.sub(r"\{\w+\}", "[^/]+", channel["address"] or "(?!)")
            if re.fullmatch(pattern, topic):
                (message,) = channel["messages"]
                return name, message
        raise AssertionError(f"{topic} is in no channel")


def headers(message: wire.Outbound | wire.Inbound) -> dict[str, str]:
    """User properties, and the two of MQTT's own that the document counts among them."""
    given = dict(message.user)
    if message.response_topic:
        given["responseTopic"] = message.response_topic
    if message.correlation:
        given["correlationData"] = message.correlation.decode("latin-1")
    return given
