"""Prompts with pictures in the session: what is refused before the worker, and the bounds."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cbor2
import pytest

from edgekit.agent.serve.loop.modelfile import takes_pictures
from edgekit.agent.serve.loop.notify import Notifier
from edgekit.agent.serve.loop.service import Service
from edgekit.agent.serve.pipe import Ready
from edgekit.agent.serve.session.events import Connected, Publish, Restored
from edgekit.agent.serve.session.ledger import MAX_BYTES, REQUESTER_SHARE
from edgekit.core import pictures
from edgekit.core.config import REQUESTER_LIMIT, AgentConfig
from edgekit.core.protocol import wire
from edgekit.core.protocol.payloads import ImagesTaken
from tests.harness.session import CARD, Agent, bundle, error, kinds, the_start, to_worker

JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
TAKEN = ImagesTaken(crops=1, tokens=313, per_message=1, per_prompt=2)
KIB = 1024


def picture(data: bytes = JPEG) -> dict[str, Any]:
    url = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str = "What is this?") -> dict[str, Any]:
    return {"type": "text", "text": words}


def asks(*contents: object, **more: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents], **more}


def seeing(**limits: int) -> Agent:
    return Agent(images=TAKEN, limits=limits)


# --- what the worker gets ---------------------------------------------------------------------
def test_the_worker_gets_texts_and_bytes_in_their_order() -> None:
    start = the_start(seeing().ready().prompt(body=asks([text(), picture()], "And?")))
    assert start.messages == [("user", ["What is this?", JPEG]), ("user", "And?")]


def test_so_it_does_from_cbor() -> None:
    body = asks([{"type": "image", "data": JPEG}, text()])
    agent = seeing().ready()
    start = the_start(agent.prompt(payload=cbor2.dumps(body), content_type=wire.CBOR))
    assert start.messages == [("user", [JPEG, "What is this?"])]


def test_no_ended_prompt_with_a_picture_is_kept_for_the_quality_canary() -> None:
    agent = seeing(canary_samples=5).ready()
    assert not the_start(agent.prompt("p1", body=asks([picture()]))).sample
    agent.finishes("alice/p1")
    assert the_start(agent.prompt("p2")).sample


# --- refused before the worker ----------------------------------------------------------------
def refused(agent: Agent, body: dict[str, Any]) -> tuple[str, str | None, str]:
    effects = agent.prompt("refused", body=body)
    assert to_worker(effects) == []
    said = error(effects)
    return said["code"], said["param"], said["message"]


def test_a_model_that_reads_text_alone_refuses_pictures_by_name() -> None:
    code, param, said = refused(Agent().ready(), asks("Hi", [text(), picture()]))
    assert (code, param) == ("unsupported_parameter", "messages[1].content[1]")
    assert said == "smollm2 reads text alone: this device takes no pictures"


@pytest.mark.parametrize(
    ("limits", "contents", "param", "said"),
    [
        ({}, [[picture(), picture()]], "messages[0].content", "2 pictures in one message; at most"),
        ({}, [[picture()]] * 3, "messages", "3 pictures in all messages; at most 2"),
        ({"images_per_prompt": 3}, [[picture()] * 2] * 2, "messages", "4 pictures in all"),
        ({"images_per_prompt": 1}, [[picture()]] * 2, "messages", "2 pictures in all"),
    ],
)
def test_too_many_pictures(
    limits: dict[str, int], contents: list[object], param: str, said: str
) -> None:
    code, where, why = refused(seeing(**limits).ready(), asks(*contents))
    assert (code, where) == ("invalid_request", param)
    assert said in why
    assert "images_per_prompt" in why


def test_the_operator_may_allow_several_in_one_message() -> None:
    agent = seeing(images_per_prompt=3).ready()
    assert kinds(agent.prompt(body=asks([picture()] * 3))) == ["accepted"]


# --- bytes ------------------------------------------------------------------------------------
def filled(size: int) -> bytes:
    """A body of this size with one picture."""

    def written(count: int) -> bytes:
        return json.dumps(asks([picture(JPEG + bytes(count)), text("")])).encode()

    count = (size - len(written(0))) // 4 * 3
    return written(count) + b" " * (size - len(written(count)))


def test_a_body_with_a_picture_has_up_to_510_kib() -> None:
    agent = seeing().ready()
    assert kinds(agent.prompt("p1", payload=filled(510 * KIB))) == ["accepted"]
    effects = agent.prompt("p2", payload=filled(510 * KIB + 1))
    assert error(effects)["code"] == "payload_too_large"


def test_a_model_of_texts_keeps_its_128_kib() -> None:
    said = error(Agent().ready().prompt(payload=filled(128 * KIB + 1)))
    assert (said["code"], said["message"]) == (
        "payload_too_large",
        "131073 bytes; at most 131072",
    )


def test_texts_have_128_kib_beside_any_picture() -> None:
    agent = seeing().ready()
    fits = asks([picture(), text("x" * 128 * KIB)])
    assert kinds(agent.prompt("p1", body=fits)) == ["accepted"]
    code, param, said = refused(agent, asks([picture(), text("x" * 128 * KIB)], "x"))
    assert (code, param) == ("payload_too_large", "messages")
    assert said == "the texts have 131073 bytes; at most 131072"


def test_four_of_the_largest_prompts_of_a_requester_fit_into_its_share_of_the_journal() -> None:
    assert REQUESTER_LIMIT * pictures.MAX_PICTURE_BODY_BYTES < MAX_BYTES // REQUESTER_SHARE
    agent = Agent(images=TAKEN, queue_limit=8).ready()
    for number in range(REQUESTER_LIMIT):
        effects = agent.prompt(f"p{number}", payload=filled(510 * KIB))
        assert kinds(effects) == ["accepted"]
    assert error(agent.prompt("p9", payload=filled(510 * KIB)))["code"] == "queue_full"
    assert kinds(agent.prompt("p1", who="bob", payload=filled(510 * KIB))) == ["accepted"]


def test_more_pictures_make_a_larger_bound_and_there_is_a_largest() -> None:
    bounds = [wire.max_body_bytes(True, count) // KIB for count in (0, 1, 2, 3, 4, 99)]
    assert bounds == [510, 510, 510, 640, 768, 768]
    assert wire.max_body_bytes(False, 99) == wire.MAX_BODY_BYTES


# --- over a restart ---------------------------------------------------------------------------
def test_a_release_without_eyes_refuses_the_pictures_that_wait() -> None:
    agent = seeing()
    agent.prompt("p1", body=asks([picture()]))
    after = Agent(disk=agent.disk)
    after.handle(Restored(tuple(agent.disk.values())))
    after.handle(Ready(1.0, 1.0, 1))
    said = error(after.handle(Connected()))
    assert (said["code"], said["param"]) == ("unsupported_parameter", "messages[0].content[0]")


def test_a_prompt_with_a_picture_survives_the_agent() -> None:
    agent = seeing()
    agent.prompt("p1", body=asks([text(), picture()]))
    again = agent.restarted()
    start = the_start(again.handle(Ready(1.0, 1.0, 1, images=TAKEN)))
    assert start.messages == [("user", ["What is this?", JPEG])]


# --- the card, and what the agent knows before the worker -------------------------------------
def card(agent: Agent) -> dict[str, Any]:
    agent.handle(Ready(1.0, 1.0, 1, images=agent.images))
    effects = agent.handle(Connected())
    (said,) = [
        e.message.payload for e in effects if isinstance(e, Publish) and CARD in e.message.topic
    ]
    read: dict[str, Any] = json.loads(said)
    return read


def test_the_card_says_what_a_picture_may_be() -> None:
    assert card(seeing())["images"] == {
        "crops": 1,
        "tokens": 313,
        "per_message": 1,
        "per_prompt": 2,
        "formats": ["image/jpeg", "image/png"],
        "max_pixels": 4_000_000,
        "max_body_bytes": 522_240,
        "side": 672,
        "bytes": 131_072,
    }
    assert "images" not in card(Agent())


VISION = {"model": {"type": "phi3v", "vision": {"filename": "vision.onnx"}}}


@pytest.mark.parametrize(
    ("written", "takes"),
    [
        (json.dumps(VISION), True),
        (json.dumps({"model": {"type": "llama"}}), False),
        ("{", False),  # the worker fails and says why
        ('{"model": 5}', False),
        (None, False),
    ],
)
def test_the_models_config_tells_the_agent(
    tmp_path: Path, written: str | None, takes: bool
) -> None:
    if written is not None:
        (tmp_path / "genai_config.json").write_text(written)
    assert takes_pictures(tmp_path) is takes


@pytest.mark.parametrize(
    ("vision", "packet_bytes", "room_bytes"),
    [(False, 832 * KIB, 256 * KIB), (True, 1020 * KIB, 1020 * KIB)],
)
def test_packet_limit_and_journal_check_follow(
    tmp_path: Path, vision: bool, packet_bytes: int, room_bytes: int
) -> None:
    model, ready, tuning = (tmp_path / name for name in ("model", "ready", "tuning"))
    model.mkdir()
    config = VISION if vision else {"model": {"type": "llama"}}
    (model / "genai_config.json").write_text(json.dumps(config))
    journal = tmp_path / "journal.db"
    service = Service(
        AgentConfig("pi"), bundle(), "sha256:r", model, ready, tuning, "a", journal, Notifier({})
    )
    assert service._mqtt._engine.client.max_packet_bytes == packet_bytes
    assert service._journal._check_bytes == room_bytes
    assert service._session.takes_pictures is vision
    service._journal.check()
