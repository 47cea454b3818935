"""What Home Assistant's integration `llama_cpp` sends, by its client, the official SDK.

Written from its source (homeassistant/components/llama_cpp, api.py and entity.py, of 2026): it
lists the models, tries one with a tool and three tokens, and then chats with temperature, top_p,
tools, the conversation's id as `user`, and results of tools as JSON texts.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.contract.test_gateway import served
from tests.harness.gateway import Gateway

__all__ = ["served"]

pytestmark = pytest.mark.timeout(300)

TRY: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You are an assistant of a house."},
        {"role": "user", "content": "What is the capital of Italy?"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "probe",
                "description": "Does nothing.",
                "parameters": {"type": "object", "properties": {}},
            },
        }
    ],
    "max_tokens": 3,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "HassTurnOn",
        "description": "Turns on a device or entity",
        "parameters": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "area": {"type": "string"},
                "domain": {"type": "array", "items": {"type": "string"}},
            },
            "required": [],
        },
    },
}
CALL = {
    "type": "function",
    "id": "01HV2ZJ6",
    "function": {"name": "HassTurnOn", "arguments": json.dumps({"name": "lamp"})},
}
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You are a voice assistant for a house."},
        {"role": "user", "content": "Turn on the lamp"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {
            "role": "tool",
            "tool_call_id": "01HV2ZJ6",
            "content": json.dumps({"data": {"success": True}, "error": None}),
        },
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Thank you"},
    ],
    "tools": [TOOL],
    "max_tokens": 16,
    "top_p": 1.0,
    "temperature": 0.6,
    "user": "01HV2ZJ6CONVERSATION",
}


def client(made: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{made.url}/v1", api_key=made.keys["alice"], max_retries=0)


def test_it_is_set_up_as_an_entry(served: tuple[Gateway, str, str]) -> None:
    made, model, _ = served

    async def run() -> None:
        async with client(made) as sdk:
            page = await sdk.with_options(timeout=10.0).models.list()
            assert model in [each.id async for each in page]
            whole = await sdk.chat.completions.create(model=model, stream=False, **TRY)
            assert whole.choices[0].message.role == "assistant"
            chunks = await sdk.chat.completions.create(model=model, stream=True, **TRY)
            ends = [each.choices[0].finish_reason async for each in chunks if each.choices]
            assert ends[-1] is not None

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_with_a_tool_that_was_called(
    served: tuple[Gateway, str, str],
    stream: bool,
) -> None:
    made, model, _ = served

    async def run() -> None:
        async with client(made) as sdk:
            result: Any = await sdk.chat.completions.create(model=model, stream=stream, **CHAT)
            if not stream:
                message = result.choices[0].message
                assert message.content is not None or message.tool_calls
                return
            roles, said = [], ""
            async for chunk in result:
                if chunk.choices and not chunk.choices[0].finish_reason:
                    roles.append(chunk.choices[0].delta.role)
                    said += chunk.choices[0].delta.content or ""
            assert "assistant" in roles, "it shows nothing before it has heard the role"
            assert said

    asyncio.run(run())


def test_its_errors_say_what_was_wrong(served: tuple[Gateway, str, str]) -> None:
    made, _, _ = served

    async def run() -> None:
        async with client(made) as sdk:
            with pytest.raises(openai.NotFoundError) as lost:
                await sdk.chat.completions.create(model="gpt-4", stream=False, **TRY)
            assert lost.value.response.json()["error"]["message"]
        async with openai.AsyncOpenAI(
            base_url=f"{made.url}/v1", api_key="no", max_retries=0
        ) as sdk:
            with pytest.raises(openai.AuthenticationError):
                await sdk.models.list()

    asyncio.run(run())
