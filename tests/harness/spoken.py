"""Prompts and replies as other clients write and read them: in an envelope, in CBOR.

Written with `json` and cbor2 alone, from docs/protocol and not from the agent's own code.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Literal

import cbor2
import msgspec

from edgekit.core.protocol import topics, wire

Encoding = Literal["properties", "envelope", "cbor"]


def written(message: wire.Outbound, encoding: Encoding) -> wire.Outbound:
    """The same request as a client that speaks so sends it; what is no JSON is wrong here too."""
    if encoding == "cbor":
        body = message.payload
        with suppress(ValueError):
            body = cbor2.dumps(json.loads(body))
        return msgspec.structs.replace(message, payload=body, content_type=wire.CBOR)
    if encoding == "envelope":
        return wire.Outbound(message.topic, _enveloped(message), message.qos, content_type="")
    return message


def read(message: wire.Outbound | wire.Inbound, encoding: Encoding) -> wire.Inbound:
    """A reply, with properties again, from what such a client looks at."""
    payload, user, correlation = message.payload, message.user, message.correlation
    if encoding == "cbor":
        assert message.content_type == wire.CBOR
        payload = json.dumps(cbor2.loads(payload)).encode()
    if encoding == "envelope":
        answer = json.loads(payload)
        assert answer["v"] == 1
        payload = json.dumps(answer["payload"]).encode()
        keys = {"ek-kind": "kind", "ek-seq": "seq", "ek-id": "id", "ek-dev": "dev"}
        user = tuple((name, str(answer[key])) for name, key in keys.items())
        user += (("ek-status", str(answer["status"])),) if "status" in answer else ()
        user += (("traceparent", answer["traceparent"]),) if "traceparent" in answer else ()
        correlation = bytes.fromhex(message.topic.rsplit("/", 1)[-1])
    return wire.Inbound(
        message.topic,
        payload,
        message.qos,
        message.retain,
        correlation=correlation,
        expiry_seconds=message.expiry_seconds,
        user=user,
    )


def _enveloped(message: wire.Outbound) -> bytes:
    user = dict(message.user)
    envelope: dict[str, Any] = {"v": 1}
    if message.response_topic:  # which tells the attempts apart, as Correlation Data would
        envelope["reply_to"] = f"{message.response_topic}/{message.correlation.hex()}"
    if topics.is_control(message.topic):
        return json.dumps(envelope | json.loads(message.payload)).encode()
    body: object = message.payload.decode()
    with suppress(ValueError):
        body = json.loads(message.payload)
    envelope |= {"id": user["ek-id"], "body": body}
    if message.expiry_seconds is not None:
        envelope["deadline_ms"] = message.expiry_seconds * 1000
    if "ek-want" in user:
        envelope["want"] = user["ek-want"]
    if "traceparent" in user:
        envelope["traceparent"] = user["traceparent"]
    return json.dumps(envelope).encode()
