"""The gateway with clients that know nothing of it, unchanged: Ollama's Python client, OpenAI's SDK
for Node and `llm`. A real device answers with SmolLM2 by a real Mosquitto; a simulated one beside
it does what a small model cannot be made to do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import ollama
import pytest

from tests import javascript, tools
from tests.conftest import Broker, Project
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.gateway import Gateway, gateway, wait_for_model

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.parametrize("broker", ["mosquitto"], indirect=True),
]

QUESTION = "What is the capital of France?"
HELLO: Any = [{"role": "user", "content": QUESTION}]
GREEDY = {"temperature": 0, "num_predict": 24}
SCHEMA: Any = {
    "type": "object",
    "properties": {"capital": {"enum": ["Paris", "Rome"]}},
    "required": ["capital"],
    "additionalProperties": False,
}


@dataclass
class Served:
    """A gateway, and the two devices behind it."""

    made: Gateway
    simulated: SimulatedDevice

    @property
    def toy(self) -> str:
        """The model of the simulated device."""
        return self.simulated.model

    def ollama(self, key: str = "", **headers: str) -> ollama.Client:
        """Ollama's client."""
        headers["Authorization"] = f"Bearer {key or self.made.keys['alice']}"
        return ollama.Client(self.made.url, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def served(
    broker: Broker, device: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    name = uuid.uuid4().hex[:6]
    simulated = SimulatedDevice(broker.port, f"sim-{name}", model=f"toy-{name}")
    try:
        with gateway(tmp_path_factory.mktemp("gateway"), broker.port) as made:
            wait_for_model(made.client(), "smollm2")
            wait_for_model(made.client(), simulated.model)
            yield Served(made, simulated)
            assert "Traceback" not in (made.file.parent / "gateway.log").read_text()
    finally:
        simulated.close()


def says(text: str) -> Any:
    return [{"role": "user", "content": text}]


# --- ollama -------------------------------------------------------------------------------------
def test_ollama_lists_models(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", served.made.url)
    monkeypatch.setenv("OLLAMA_API_KEY", served.made.keys["bob"])
    found = [each.model for each in ollama.Client().list().models]
    assert {"smollm2", "device:demo", served.toy} <= set(found)


def test_ollama_chats_whole_and_streams_the_same_words(served: Served) -> None:
    asked: Any = {"model": "smollm2:latest", "messages": HELLO, "options": GREEDY}
    whole = served.ollama().chat(**asked)
    assert whole.message.content
    assert (whole.done, whole.done_reason) == (True, "stop")
    assert whole.eval_count
    assert whole.eval_duration
    parts = list(served.ollama().chat(**asked, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert len(parts) > 2
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


def test_an_answer_that_is_cut_says_so_to_ollama_s_client(served: Served) -> None:
    asked: Any = {"model": "smollm2", "messages": HELLO, "options": GREEDY | {"num_predict": 2}}
    assert served.ollama().chat(**asked).done_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_ollama_s_formats_bind_the_answer(served: Served, stream: bool) -> None:
    for form in ("json", SCHEMA):
        asked: Any = {"model": "smollm2", "messages": HELLO, "format": form}
        asked["options"] = GREEDY | {"num_predict": 200}
        asked["stream"] = stream
        answer = served.ollama().chat(**asked)
        parts = list(answer) if stream else [answer]
        told = json.loads("".join(part.message.content or "" for part in parts))
        assert isinstance(told, dict)
        assert form == "json" or told["capital"] in ("Paris", "Rome")


def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name.
    """
    return f"sunny in {city}"


def test_ollama_s_tools_are_called_and_their_results_come_back(served: Served) -> None:
    for stream in (False, True):
        asked: Any = {"model": served.toy, "messages": says("tools"), "stream": stream}
        answer = served.ollama().chat(**asked, tools=[weather])
        parts = list(answer) if stream else [answer]
        calls = [call for part in parts for call in part.message.tool_calls or ()]
        assert [(one.function.name, one.function.arguments) for one in calls] == [
            ("look", {"at": "sky"})
        ]
    (sent,) = served.simulated.prompts[served.simulated.computed[-1]].body["tools"]
    assert sent["function"]["name"] == "weather"
    assert sent["function"]["parameters"]["required"] == ["city"]
    turns = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "weather", "arguments": {"city": "Paris"}}}]},
        {"role": "tool", "tool_name": "weather", "content": weather("Paris")},
    ]  # fmt: skip
    told = served.ollama().chat("smollm2", turns, tools=[weather], options=GREEDY)
    assert told.done_reason in ("stop", "length")


def test_ollama_s_log_probabilities_come(served: Served) -> None:
    asked: Any = {"model": "smollm2", "messages": HELLO, "options": GREEDY, "logprobs": True}
    whole = served.ollama().chat(**asked, top_logprobs=2)
    assert whole.logprobs
    assert "".join(each.token for each in whole.logprobs) == whole.message.content
    assert all(len(each.top_logprobs or ()) == 2 for each in whole.logprobs)


def test_errors_have_ollama_s_shape(served: Served) -> None:
    client, stranger = served.ollama(), served.ollama("ek-guessed")
    cases: list[tuple[Any, int, str]] = [
        (lambda: stranger.chat("smollm2", HELLO), 401, "API key"),
        (stranger.list, 401, "API key"),
        (lambda: client.chat("llama3.2", HELLO), 404, "no device serves"),
        (lambda: client.chat("smollm2", []), 400, "messages"),
        (lambda: client.chat("smollm2", HELLO, think=True), 400, "does not think"),
        (lambda: client.chat("smollm2", HELLO, options={"mirostat": 1}), 400, "mirostat"),
        (lambda: client.chat("smollm2", HELLO, options={"temperature": 9}), 400, "temperature"),
        (lambda: client.chat(served.toy, says("refuse queue_full")), 429, "refuse as asked"),
        (lambda: list(client.chat(served.toy, says("fail no_storage"), stream=True)), 503, "fail"),
        (lambda: client.generate("smollm2", "x"), 404, "/api/generate is not served"),
        (lambda: client.embed("smollm2", "x"), 404, "/api/embed is not served"),
        (lambda: client.pull("smollm2"), 404, "/api/pull is not served"),
    ]
    for call, status, text in cases:
        with pytest.raises(ollama.ResponseError) as refused:
            call()
        assert refused.value.status_code == status, text
        assert text in refused.value.error
        assert not refused.value.error.startswith("{")


def test_a_model_that_does_not_think_may_be_told_not_to(served: Served) -> None:
    assert served.ollama().chat("smollm2", HELLO, think=False, options=GREEDY).message.content


def test_an_error_within_ollama_s_stream_is_raised(served: Served) -> None:
    client, texts = served.ollama(**{"Edgekit-Deadline": "1"}), list[str]()
    parts = client.chat(served.toy, says("say 1000 20"), stream=True)
    with pytest.raises(ollama.ResponseError, match="before the deadline"):
        texts.extend(part.message.content or "" for part in parts)
    assert "".join(texts).startswith("w0 w1 ")


def test_ollama_s_client_cancels_by_going_away(served: Served) -> None:
    parts = served.ollama().chat(served.toy, says("say 1000 20"), stream=True)
    next(parts)
    assert served.made.under_way() == 1
    del parts  # ends the generator, which closes the connection
    tools.eventually(lambda: served.made.under_way() == 0, 5, "the gateway has let go")
    assert list(served.simulated.prompts.values())[-1].cancelled.wait(5)


def test_ollama_s_examples_with_curl_s_own_content_type_are_served(served: Served) -> None:
    answer = httpx2.post(
        f"{served.made.url}/api/chat",
        content=json.dumps({"model": served.toy, "messages": says("Hi")}).encode(),
        headers={
            "Authorization": f"Bearer {served.made.keys['alice']}",
            "Content-Type": "application/x-www-form-urlencoded",
        },
    )
    assert answer.headers["content-type"] == "application/x-ndjson"
    told = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(each["message"]["content"] for each in told) == "You said: Hi"


# --- OpenAI's SDK for Node ----------------------------------------------------------------------
def test_openai_s_sdk_for_node(served: Served, tmp_path: Path) -> None:
    script = javascript.beside_modules(javascript.FOLDER / "openai.mjs", tmp_path)
    before = set(served.simulated.prompts)
    done = subprocess.run(
        [*script, served.made.url, served.made.keys["alice"], "smollm2", served.toy],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"smollm2", served.toy} <= set(told["models"])
    assert told["whole"]
    assert told["streamed"] == told["whole"]
    assert told["usage"]["total_tokens"] > told["usage"]["completion_tokens"] > 0
    for call in (told["call"], told["streamedCall"]):
        assert call["name"] == "weather"
        assert set(json.loads(call["arguments"])) == {"city"}
    assert told["after"]["role"] == "assistant"
    assert json.loads(told["formed"])["capital"] in ("Paris", "Rome")
    assert told["aborted"][0] == "APIUserAbortError"
    tools.eventually(lambda: served.made.under_way() == 0, 5, "the gateway has let go")
    made = [p for key, p in served.simulated.prompts.items() if key not in before]
    left = [prompt for prompt in made if prompt.body["messages"] == says("say 1000 20")]
    assert len(left) == 2, "one that the stream left, one that was aborted"
    assert all(prompt.cancelled.wait(5) for prompt in left)
    assert told["errors"] == {
        "stranger": ["AuthenticationError", "invalid_api_key"],
        "unknown": ["NotFoundError", "model_not_found"],
        "field": ["BadRequestError", "unsupported_parameter"],
        "busy": ["RateLimitError", "queue_full"],
        "conflict": ["ConflictError", "id_conflict"],
        "schema": ["UnprocessableEntityError", "invalid_schema"],
        "crashed": ["InternalServerError", "worker_crashed"],
    }


# --- llm ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def llm_home(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `llm` as its documentation has it for an OpenAI-compatible API."""
    home = tmp_path_factory.mktemp("llm")
    common = f"""  api_base: {served.made.url}/v1
  api_key_name: edgekit
  supports_schema: true
  supports_tools: true
"""
    models = {"fleet": "smollm2", "toy": served.toy, "gone": "gpt-4o"}
    (home / "extra-openai-models.yaml").write_text(
        "".join(
            f"- model_id: {mine}\n  model_name: {its}\n{common}" for mine, its in models.items()
        )
    )
    (home / "keys.json").write_text(json.dumps({"edgekit": served.made.keys["alice"]}))
    return home


def run_llm(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        env=os.environ | {"LLM_USER_PATH": str(home)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_llm_streams_and_answers_whole(llm_home: Path) -> None:
    greedy = ("-m", "fleet", "-o", "temperature", "0", "-o", "max_tokens", "24", QUESTION)
    streamed = run_llm(llm_home, *greedy)
    assert streamed.returncode == 0, streamed.stderr
    assert streamed.stdout.strip()
    assert run_llm(llm_home, "--no-stream", *greedy).stdout == streamed.stdout


def test_llm_goes_on_with_a_conversation(served: Served, llm_home: Path) -> None:
    first = run_llm(llm_home, "-m", "toy", "one", "-s", "You are terse.")
    assert first.stdout == "You said: one\n"
    assert run_llm(llm_home, "-c", "two").stdout == "You said: two\n"
    sent = served.simulated.prompts[served.simulated.computed[-1]].body["messages"]
    assert [each["content"] for each in sent] == [
        *("You are terse.", "one", "You said: one", "two")
    ]


def test_llm_asks_for_a_schema(llm_home: Path) -> None:
    done = run_llm(llm_home, "-m", "fleet", "--schema", json.dumps(SCHEMA), QUESTION)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["capital"] in ("Paris", "Rome")


def test_llm_runs_the_tool_that_a_device_calls(llm_home: Path) -> None:
    function = "def look(at: str) -> str:\n    return 'blue ' + at"
    done = run_llm(llm_home, "-m", "toy", "--functions", function, "tools")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "You said: blue sky\n"


def test_llm_shows_what_was_refused(llm_home: Path) -> None:
    done = run_llm(llm_home, "-m", "gone", "Hi")
    assert done.returncode == 1
    assert "no device serves 'gpt-4o'" in done.stderr
