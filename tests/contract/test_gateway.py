"""The gateway with the official `openai` SDK, unchanged, on both brokers: one suite for a device
that speaks the protocol without a model, and for a real one with SmolLM2.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests import tools
from tests.conftest import Broker
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.gateway import Gateway, gateway, wait_for_model

pytestmark = pytest.mark.timeout(300)

HELLO: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module", params=["simulated", "real"])
def served(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, str, str]]:
    """A gateway, and the model and the name of a device."""
    name, model = "demo", "smollm2"
    simulated = None
    if request.param == "simulated":
        name, model = "sim-" + uuid.uuid4().hex[:6], "toy"
        simulated = SimulatedDevice(broker.port, name, model=model)
    else:
        request.getfixturevalue("device")
    try:
        with gateway(tmp_path_factory.mktemp("gateway"), broker.port) as made:
            wait_for_model(made.client(), model)
            yield made, model, name
            assert "Traceback" not in (made.file.parent / "gateway.log").read_text()
    finally:
        if simulated:
            simulated.close()


def test_models_lists_models_and_devices(served: tuple[Gateway, str, str]) -> None:
    made, model, name = served
    found = [each.id for each in made.client().models.list()]
    assert model in found
    assert f"device:{name}" in found
    assert made.client().models.retrieve(model).id == model
    assert made.client().models.retrieve(f"device:{name}").id == f"device:{name}"
    with pytest.raises(openai.NotFoundError):
        made.client().models.retrieve("gpt-4o")


def test_a_chat_is_answered_whole(served: tuple[Gateway, str, str]) -> None:
    made, model, name = served
    answer = made.client().chat.completions.with_raw_response.create(
        model=model, messages=HELLO, max_tokens=24, temperature=0
    )
    assert answer.headers["edgekit-device"] == name
    told = answer.parse()
    assert told.choices[0].message.role == "assistant"
    assert told.choices[0].message.content
    assert told.choices[0].finish_reason in ("stop", "length")
    assert told.model == model
    assert told.usage is not None
    assert told.usage.total_tokens == told.usage.prompt_tokens + told.usage.completion_tokens
    assert told.id == f"chatcmpl-{answer.headers['x-request-id']}"


def test_a_stream_has_the_words_of_the_whole_answer(served: tuple[Gateway, str, str]) -> None:
    made, model, name = served
    asked: Any = {"model": f"device:{name}", "messages": HELLO, "max_tokens": 24, "temperature": 0}
    whole = made.client().chat.completions.create(**asked).choices[0].message.content
    chunks = list(
        made.client().chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole
    ended = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert len(ended) == 1
    assert chunks[-1].usage is not None
    assert not chunks[-1].choices
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.model for chunk in chunks} == {model}
    assert len(chunks) > 4


def test_a_text_completion_is_a_chat_of_one_message(served: tuple[Gateway, str, str]) -> None:
    made, model, _ = served
    asked: Any = {"model": model, "prompt": "Say hello.", "max_tokens": 16, "temperature": 0}
    told = made.client().completions.create(**asked)
    assert told.object == "text_completion"
    assert told.choices[0].text
    streamed = made.client().completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == told.choices[0].text
    with pytest.raises(openai.BadRequestError) as refused:
        made.client().completions.create(model=model, prompt="x", suffix="y")
    assert refused.value.param == "suffix"


def test_what_a_device_does_not_serve_is_refused_by_name(served: tuple[Gateway, str, str]) -> None:
    made, model, _ = served
    with pytest.raises(openai.NotFoundError) as unknown:
        made.client().chat.completions.create(model="gpt-4o", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="embedding"):
        made.client().embeddings.create(model=model, input="x")
    with pytest.raises(openai.BadRequestError) as empty:
        made.client().chat.completions.create(model=model, messages=[])
    assert empty.value.param == "messages"


def test_a_stranger_is_not_served(served: tuple[Gateway, str, str]) -> None:
    made, model, _ = served
    for key in ("ek-guessed", made.keys["alice"][:-1], made.keys["alice"] + "x"):
        stranger = openai.OpenAI(base_url=f"{made.url}/v1", api_key=key, max_retries=0)
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.chat.completions.create(model=model, messages=HELLO)
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_a_client_that_closes_its_stream_cancels_the_prompt(
    served: tuple[Gateway, str, str],
) -> None:
    """The device is free again at once: an answer of hundreds of words would take far longer."""
    made, model, _ = served
    client = made.client()
    long: Any = [{"role": "user", "content": "say 400 50" if model == "toy" else "Count to 1000."}]
    stream = client.chat.completions.create(
        model=model, messages=long, stream=True, max_tokens=800, extra_body={"temperature": 0}
    )
    next(iter(stream))
    assert made.under_way() == 1
    stream.close()
    tools.eventually(lambda: made.under_way() == 0, 5, "the gateway has let go")
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=8)
    assert answer.choices[0].message.content


def test_the_same_idempotency_key_of_another_requester_is_another_prompt(
    served: tuple[Gateway, str, str],
) -> None:
    made, model, _ = served
    alice, bob = made.client(), made.client("bob")
    asked: Any = {"model": model, "max_tokens": 8, "temperature": 0}
    asked["extra_headers"] = {"Idempotency-Key": uuid.uuid4().hex}
    secret: Any = [{"role": "user", "content": "My code is 4711."}]
    hers = alice.chat.completions.create(messages=secret, **asked)
    his = bob.chat.completions.create(messages=HELLO, **asked)
    assert his.choices[0].message.content != hers.choices[0].message.content
    assert alice.chat.completions.create(messages=secret, **asked).choices == hers.choices
    assert bob.chat.completions.create(messages=HELLO, **asked).choices == his.choices
