"""Bytes from outside: a result or one of our own errors, whatever they are."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import cbor2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.agent.serve.pipe import Cancel, Generated, Pipe, PipeClosedError, Start, ToWorker
from edgekit.core.chat.body import parse_body
from edgekit.core.chat.sampling import Sampling
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    TITLE,
    WEIGHT_TYPE,
    parse_config,
    parse_manifest,
)
from edgekit.core.protocol import envelope, topics, wire
from edgekit.errors import VerificationError

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True, database=None)
DIGEST = "sha256:" + "a" * 64

MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": BUNDLE_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": DIGEST, "size": 2},
        "layers": [
            {
                "mediaType": WEIGHT_TYPE,
                "digest": DIGEST,
                "size": 1,
                "annotations": {TITLE: "model.onnx"},
            },
            {"mediaType": AGENT_TYPE, "digest": DIGEST, "size": 1},
            {
                "mediaType": RUNTIME_TYPE,
                "digest": DIGEST,
                "size": 1,
                "annotations": {PLATFORM: "linux/arm64", PYTHON: "3.11"},
            },
        ],
    }
).encode()
CONFIG = json.dumps(
    {
        "name": "m",
        "version": "1",
        "model_type": "llama",
        "build_id": "b",
        "context_length": 1,
        "kv_bytes_per_token": 1,
        "max_answer_tokens": 1,
        "fit": {"ram_bytes": 1, "disk_bytes": 1},
        "search": {"temperature": 0.6},
    }
).encode()
PICTURE = {
    "type": "image_url",
    "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ", "detail": "low"},
}
BODY = json.dumps(
    {
        "messages": [
            {"role": "system", "content": "Bé brief ☕"},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, PICTURE]},
        ],
        "stop": ["a"],
        "temperature": 0.5,
        "max_tokens": 3,
        "stream": True,
    },
    ensure_ascii=False,
).encode()
ENVELOPE = json.dumps(
    {
        "v": 1,
        "id": "p1",
        "reply_to": "edgekit/v1/res/alice/s",
        "deadline_ms": 60_000,
        "body": json.loads(BODY),
        "want": "final",
    }
).encode()
CBOR_BODY = cbor2.dumps(
    json.loads(BODY)
    | {"messages": [{"role": "user", "content": [{"type": "image", "data": b"\xff\xd8\xff"}]}]}
)
CBOR_CONTROL = cbor2.dumps({"kind": "cancel", "id": "p1"})
CONTROL = b'{"kind":"cancel","id":"p1","later":[{"a":1}]}'
ERROR = wire.ProtocolError("queue_full", "busy", retry_after_ms=5).encode()


def read_cbor(data: bytes) -> object:
    """As the body of a prompt."""
    return parse_body(data, "cbor")


def read_cbor_control(data: bytes) -> object:
    message = wire.Inbound(topics.control_topic("pi", "alice"), data, content_type=wire.CBOR)
    return envelope.parse_control(envelope.opened(message))


def read_envelope(data: bytes) -> object:
    """As it arrives; what has no address that may be answered is not read further."""
    message = envelope.opened(wire.Inbound(topics.request_topic("pi", "alice"), data))
    reply = wire.address_of(message, "pi")
    if reply is None:
        return None
    prompt = envelope.parse_prompt(message, reply)
    assert reply.topic.startswith("edgekit/v1/res/alice/")
    assert 0 < prompt.expiry_seconds <= wire.MAX_EXPIRY_SECONDS
    assert 1 <= len(reply.prompt_id) <= 128
    return prompt


# what reads the bytes, an example, and the only exception that may come out
PARSERS: dict[str, tuple[Callable[[bytes], object], bytes, type[Exception]]] = {
    "parse_body": (parse_body, BODY, wire.ProtocolError),
    "a body in CBOR": (read_cbor, CBOR_BODY, wire.ProtocolError),
    "a control message in CBOR": (read_cbor_control, CBOR_CONTROL, ZeroDivisionError),  # none
    "an envelope": (read_envelope, ENVELOPE, wire.ProtocolError),
    "parse_control": (wire.parse_control, CONTROL, ZeroDivisionError),  # none
    "ProtocolError.decode": (wire.ProtocolError.decode, ERROR, ZeroDivisionError),  # none
    "parse_manifest": (parse_manifest, MANIFEST, VerificationError),
    "parse_config": (parse_config, CONFIG, VerificationError),
}
parsers = pytest.mark.parametrize("name", PARSERS)


def feed(name: str, data: bytes) -> None:
    read, _, error = PARSERS[name]
    try:
        read(data)
    except error:
        return


@parsers
def test_the_example_itself_is_read(name: str) -> None:
    read, example, _ = PARSERS[name]
    assert read(example) is not None


@parsers
def test_every_prefix_and_every_flipped_byte(name: str) -> None:
    example = PARSERS[name][1]
    for end in range(len(example)):
        feed(name, example[:end])
        for flip in (0x01, 0x20, 0x80, 0xFF):
            feed(name, example[:end] + bytes([example[end] ^ flip]) + example[end + 1 :])


@parsers
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"layers":[', b'{"later":'])
def test_bottomless_nesting(name: str, opening: bytes) -> None:
    example = PARSERS[name][1]
    feed(name, opening * 50_000)
    feed(name, example[:-1] + b',"later":' + b"[" * 100_000)


@parsers
@SETTINGS
@given(data=st.binary(max_size=200))
def test_garbage(name: str, data: bytes) -> None:
    feed(name, data)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@parsers
@SETTINGS
@given(data=st.data())
def test_wrong_values_in_the_right_places(name: str, data: st.DataObject) -> None:
    in_cbor = "CBOR" in name
    example = (cbor2.loads if in_cbor else msgspec.json.decode)(PARSERS[name][1])
    key = data.draw(st.sampled_from(sorted(example)))
    example[key] = data.draw(values)
    feed(name, (cbor2.dumps if in_cbor else msgspec.json.encode)(example))


@SETTINGS
@given(
    topic=st.text(max_size=20).map(lambda t: f"edgekit/v1/req/dev/pi/{t}"),
    response=st.text(max_size=20),
    prefixed=st.booleans(),
    correlation=st.binary(max_size=70),
    expiry=st.none() | st.integers(0, 2**32 - 1),
    content_type=st.sampled_from(["", wire.JSON, "text/plain"]),
    user=st.lists(
        st.tuples(st.sampled_from(["ek-id", "ek-want", "x"]), st.text(max_size=5)), max_size=3
    ),
    retain=st.booleans(),
)
def test_any_envelope_is_answered_below_its_requester_or_not_at_all(
    topic: str,
    response: str,
    prefixed: bool,
    correlation: bytes,
    expiry: int | None,
    content_type: str,
    user: list[tuple[str, str]],
    retain: bool,
) -> None:
    requester = topics.requester_of(topic)
    if prefixed:
        response = topics.response_prefix(requester) + response
    message = wire.Inbound(
        topic=topic,
        payload=BODY,
        retain=retain,
        response_topic=response,
        correlation=correlation,
        expiry_seconds=expiry,
        content_type=content_type,
        user=tuple(user),
    )
    reply = wire.address_of(message, "pi")
    if reply is None:
        return
    assert requester
    assert reply.topic.startswith(f"edgekit/v1/res/{requester}/")
    assert not retain
    assert not set("+#\0") & set(reply.topic)
    try:
        prompt = wire.parse_prompt(message, reply)
    except wire.ProtocolError:
        return
    assert 1 <= prompt.expiry_seconds <= wire.MAX_EXPIRY_SECONDS


# --- the pipe between agent and worker --------------------------------------------------------
MESSAGES: list[ToWorker] = [
    Start("alice/1", "alice", [("user", "Hé")], Sampling(), ["x"], 7, 12.5),
    Start("alice/2", "alice", [("user", ["What?", b"\xff\xd8"])], Sampling(), [], 7, 12.5),
    Cancel("alice/1"),
]


def frames() -> bytes:
    """`MESSAGES` as they stand on the wire."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for message in MESSAGES:
            Pipe[ToWorker](ours, ToWorker).send(message)
        return theirs.recv(1 << 16)


def read_all(data: bytes, cuts: list[int]) -> list[ToWorker]:
    """What a pipe reads when `data` arrives in pieces and the other end then goes."""
    ours, theirs = socket.socketpair()
    pipe: Pipe[ToWorker] = Pipe(theirs, ToWorker)
    seen: list[ToWorker] = []
    with theirs, ours:
        try:
            for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                ours.sendall(data[begin:end])
                while (message := pipe.receive(wait=False)) is not None:
                    seen.append(message)
            ours.close()
            while True:
                message = pipe.receive()
                assert message is not None
                seen.append(message)
        except PipeClosedError:
            return seen


@SETTINGS
@given(cuts=st.lists(st.integers(0, len(frames())), max_size=6).map(sorted))
def test_frames_arrive_whole_however_they_are_cut(cuts: list[int]) -> None:
    assert read_all(frames(), cuts) == MESSAGES


def test_every_prefix_of_a_frame_gives_the_whole_frames_before_it() -> None:
    whole = frames()
    for end in range(len(whole)):
        assert read_all(whole[:end], []) in ([], MESSAGES[:1], MESSAGES[:2])


@SETTINGS
@given(data=st.binary(max_size=60), framed=st.booleans())
def test_a_pipe_that_talks_nonsense_is_a_closed_pipe(data: bytes, framed: bool) -> None:
    if framed:
        data = len(data).to_bytes(4, "big") + data
    read_all(data, [])


@pytest.mark.parametrize(
    "body", [b"\xff", b"", msgspec.msgpack.encode({"type": "start"}), b"\x91" * 50_000, b"\xa1\xff"]
)
def test_a_frame_that_is_none_of_ours_ends_the_conversation(body: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(len(body).to_bytes(4, "big") + body)
        with pytest.raises(PipeClosedError):
            Pipe[ToWorker](theirs, ToWorker).receive()


def test_a_frame_too_large_and_a_message_of_the_other_direction_are_refused() -> None:
    for data in (b"\xff\xff\xff\xff", None):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if data is None:
                Pipe[ToWorker](ours, ToWorker).send(Generated("j", "x"))
            else:
                ours.sendall(data)
            with pytest.raises(PipeClosedError):
                Pipe[ToWorker](theirs, ToWorker).receive()
