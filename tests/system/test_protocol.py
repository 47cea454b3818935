"""The protocol as it is published: its examples work, and its document says what is said."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient
from tests import javascript, tools
from tests.conftest import Broker, Project
from tests.contract.broker_capabilities import BROKERS
from tests.contract.document import Document

pytestmark = pytest.mark.timeout(600)

EXAMPLES = Path(__file__).parents[2] / "docs" / "protocol" / "examples"
MAX_LINES, MAX_COLUMNS = 30, 100
SILENCE_SECONDS = 15  # after which an example gives up


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """How each example is started."""
    folder = tmp_path_factory.mktemp("examples")
    return {
        "ask.py": [sys.executable, str(EXAMPLES / "ask.py")],
        "ask.mjs": javascript.beside_modules(EXAMPLES / "ask.mjs", folder),
    }


def start(command: list[str], port: int, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, f"mqtt://127.0.0.1:{port}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], seconds: float = 60.0) -> tuple[int, str, str]:
    """Its exit code and what it said; a traceback is nothing to say."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert "Traceback" not in err
    assert "    at " not in err
    return process.returncode, out, err


# --- the examples -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ask.py", "ask.mjs"])
def test_an_example_is_thirty_lines_besides_what_it_imports(name: str) -> None:
    text = re.sub(r'\A""".*?"""', "", (EXAMPLES / name).read_text("utf-8"), flags=re.DOTALL)
    code = [line for line in text.splitlines() if line and not line.startswith("//")]
    assert len([line for line in code if not re.match("import |from ", line)]) <= MAX_LINES
    assert max(map(len, code)) <= MAX_COLUMNS


def test_the_example_in_python_needs_paho_alone() -> None:
    tree = ast.parse((EXAMPLES / "ask.py").read_text("utf-8"))
    names = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"paho"}


@pytest.mark.parametrize("name", ["ask.py", "ask.mjs"])
def test_an_example_prints_the_answer_as_it_comes(
    device: Project, commands: dict[str, list[str]], name: str
) -> None:
    process = start(commands[name], device.port, "demo", "Write one paragraph about bread.")
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 1 << 12)
    assert process.poll() is None, "the text came at the end"
    code, rest, err = ended(process)
    assert (code, err) == (0, "")
    assert len(rest) > len(first) > 0
    code, out, err = ended(
        start(commands[name], device.port, "demo", "What is the capital of France?")
    )
    assert (code, err) == (0, "")
    assert out.strip() == "The capital of France is Paris."


@pytest.mark.parametrize("name", ["ask.py", "ask.mjs"])
def test_an_example_sends_further_fields_and_shows_calls(
    device: Project, commands: dict[str, list[str]], name: str
) -> None:
    question = "Is Paris in France?"
    code, out, err = ended(
        start(commands[name], device.port, "demo", question, '{"regex": "yes|no"}')
    )
    assert (code, err) == (0, "")
    assert out.strip() in ("yes", "no")
    tool = {"type": "function", "function": {"name": "look"}}
    fields = json.dumps({"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False})
    code, out, err = ended(start(commands[name], device.port, "demo", question, fields))
    assert (code, err) == (0, "")
    (call,) = json.loads(out)["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": "{}"}


@pytest.mark.parametrize("name", ["ask.py", "ask.mjs"])
def test_an_example_that_is_answered_by_an_error_says_which_and_ends_with_one(
    device: Project, commands: dict[str, list[str]], name: str
) -> None:
    code, out, err = ended(start(commands[name], device.port, "demo", "word " * 3000))
    assert (code, out) == (1, "")
    assert err.startswith("demo: context_length_exceeded, ")
    assert err.count("\n") == 1


def test_examples_end_by_themselves_where_no_such_device_is(
    broker: Broker, commands: dict[str, list[str]]
) -> None:
    began = time.monotonic()
    waiting = [start(command, broker.port, "nobody", "Hi") for command in commands.values()]
    for process in waiting:
        code, out, err = ended(process, 2 * SILENCE_SECONDS)
        assert (code, out) == (1, "")
        assert err.startswith("nobody does not answer: ")
    told = BROKERS[broker.kind].puback_no_subscribers
    assert (time.monotonic() - began < SILENCE_SECONDS) is told


@pytest.mark.parametrize("name", ["ask.py", "ask.mjs"])
def test_an_example_says_that_there_is_no_broker(commands: dict[str, list[str]], name: str) -> None:
    code, out, err = ended(start(commands[name], tools.free_port(), "demo", "Hi"))
    assert (code, out) == (1, "")
    assert err.startswith("demo does not answer: ")
    assert "refused" in err.lower()


# --- the document -----------------------------------------------------------------------------
class Watcher:
    """Everything on the broker."""

    def __init__(self, port: int) -> None:
        self.messages: list[wire.Inbound] = []
        self.mqtt = MqttClient(
            BrokerConfig("127.0.0.1", port),
            f"watcher-{uuid.uuid4().hex[:8]}",
            subscriptions=[(f"{topics.PREFIX}/#", 1)],
            on_message=self.messages.append,
        )
        self.mqtt.connect()

    def wait(self, check: Callable[[list[wire.Inbound]], object], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not check(self.messages):
            assert time.monotonic() < deadline, [m.topic for m in self.messages]
            time.sleep(0.02)

    def close(self) -> None:
        self.mqtt.close()


@pytest.fixture
def watcher(device: Project) -> Iterator[Watcher]:
    with closing(Watcher(device.port)) as made:
        yield made


def kinds(messages: list[wire.Inbound], prompt_id: str) -> list[str]:
    replies = [m for m in messages if m.topic.startswith(f"{topics.PREFIX}/res/")]
    return [m.property("ek-kind") for m in replies if m.property("ek-id") == prompt_id]


def test_all_that_a_real_device_and_its_clients_say_is_as_the_document_says(
    broker: Broker, device: Project, watcher: Watcher, commands: dict[str, list[str]]
) -> None:
    watcher.wait(lambda seen: len([m for m in seen if m.retain]) >= 2)  # card and status
    for command in commands.values():
        assert ended(start(command, device.port, "demo", "What is the capital of France?"))[0] == 0
    prompt = wire.Outbound(
        topics.request_topic("demo", "watched"),
        b'{"messages":[{"role":"user","content":"Count."}],"logit_bias":{"2":-100}}',
        response_topic=topics.response_prefix("watched") + "1",
        correlation=b"\xff\x00",
        expiry_seconds=60,
        user=(("ek-id", "p1"),),
    )
    watcher.mqtt.publish(prompt)
    watcher.wait(lambda seen: "delta" in kinds(seen, "p1"))
    for kind, reply in (("query", "state"), ("cancel", "final")):
        payload = msgspec.json.encode(wire.Control(kind, "p1"))  # type: ignore[arg-type]  # both are
        control: dict[str, Any] = {"correlation": b"c", "response_topic": prompt.response_topic}
        topic = topics.control_topic("demo", "watched")
        watcher.mqtt.publish(wire.Outbound(topic, payload, qos=0, **control))
        watcher.wait(lambda seen, reply=reply: reply in kinds(seen, "p1"))  # type: ignore[misc]  # a bound default is not inferred
    watcher.mqtt.publish(
        msgspec.structs.replace(prompt, payload=b'{"messages":[]}', user=(("ek-id", "p2"),))
    )
    watcher.wait(lambda seen: "error" in kinds(seen, "p2"))

    document, said = Document(), set()
    for message in list(watcher.messages):
        live_presence = message.topic.startswith(f"{topics.PREFIX}/dev/") and not message.retain
        wrong = message.topic.startswith(f"{topics.PREFIX}/req/") and b"[]" in message.payload
        if not live_presence and not wrong:  # a live one says nothing of how it was retained
            said.add(document.check(message, any_qos=not BROKERS[broker.kind].lower_qos))
    # metrics come every 30 s: tests/system/test_health.py waits for them; test_rules.py has a rule
    assert said == set(document.part("#/components/messages")) - {"metrics", "ruleAnswer"}
