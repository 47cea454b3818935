"""`edgekit rules test`: the prompt of a rule, and what is refused before a device is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edgekit.cli import main

FLEET = """
[rules.door]
topic_filter = "plant/{device}/+/door"
prompt = "The door is {{ message.state }} ({{ topic }})."

[devices.pi-1]
address = "ssh:pi-1"

[devices.pi-2]
address = "ssh:pi-2"

[devices.pi-2.rules.heat]
topic_filter = "heat"
prompt = "{% for m in messages %}{{ m.t }} {% endfor %}"
window_seconds = 5
window_messages = 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "edgekit.toml").write_text('[broker]\nhost = "127.0.0.1"\nport = 1\n')
    (tmp_path / "fleet.toml").write_text(FLEET)
    (tmp_path / "open.json").write_text('{"state": "open", "t": 1}')
    return tmp_path


def run(folder: Path, *words: str, stdin: str = "") -> Result:
    told = ["rules", "test", "--project", str(folder), *words]
    told = [str(folder / word) if word.endswith(".json") else word for word in told]
    return CliRunner().invoke(main.application("rules"), told, input=stdin)


def test_the_prompt_is_shown_without_a_device(folder: Path) -> None:
    done = run(folder, "door", "--message", "open.json", "--render")
    assert done.output == (
        "topic    plant/pi-1/test/door\nprompt   The door is open (plant/pi-1/test/door).\n"
    )


def test_standard_input_a_topic_and_a_device_can_be_named(folder: Path) -> None:
    words = ("--device", "pi-2", "--topic", "plant/pi-2/hall/door", "--render", "--json")
    done = run(folder, "door", "--message", "-", *words, stdin='{"state": "shut"}')
    assert json.loads(done.output) == {
        "rule": "door",
        "device": "pi-2",
        "topic": "plant/pi-2/hall/door",
        "publish": "edgekit/v1/rule/pi-2/door",
        "prompt": "The door is shut (plant/pi-2/hall/door).",
        "answer": None,
    }


def test_several_files_are_one_window(folder: Path) -> None:
    done = run(folder, "heat", "--message", "open.json", "--message", "open.json", "--render")
    assert "prompt   1 1" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dor", "--message", "open.json"), "there are door, heat"),
        (("heat", "--message", "open.json", "--device", "pi-1"), "pi-1 has no rule heat"),
        (("door", "--message", "open.json", "--device", "pi-9"), "no device or group 'pi-9'"),
        (("door", "--message", "none.json"), "cannot be read"),
        (("door", "--message", "fleet.toml.json"), "cannot be read"),
        (("door", "--message", "bad.json"), "is no message for a rule"),
        (("door", "--message", "long.json"), "at most 16384"),
        (("door", "--message", "bare.json"), "no attribute 'state'"),
        (("door", "--message", "open.json", "--topic", "other"), "does not hear 'other'"),
        (("door", "--message", "open.json", "--topic", "a/#"), "has a wildcard"),
        (("door", *("--message", "open.json") * 2), "no window_seconds"),
        (("heat", *("--message", "open.json") * 3), "window_messages is 2"),
        (("door", "--message", "open.json"), "does not answer"),  # there is no broker
    ],
)
def test_what_cannot_be_tried_says_why(folder: Path, words: tuple[str, ...], said: str) -> None:
    (folder / "bad.json").write_text('{"a": 1, "a": 2}')
    (folder / "long.json").write_text('"' + "x" * 16384 + '"')
    (folder / "bare.json").write_text("{}")
    done = run(folder, *words)
    assert done.exit_code
    assert said in str(done.exception)
