"""What `edgekit ask` takes as a prompt and as a broker."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from edgekit.cli import project
from edgekit.cli.talk import ask
from edgekit.cli.talk.answering import schema_format
from edgekit.cli.talk.chat.view import AnswerView
from edgekit.client import Delta, Final, Reply
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import wire
from edgekit.errors import UsageError


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes, encoding: str = "utf-8") -> str:
    stdin = io.TextIOWrapper(io.BytesIO(data), encoding, errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", stdin)
    return ask._piped()


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (b"Hi\n", "Hi"),
        (b"Hi\r\n", "Hi"),
        (b"Hi\n\n", "Hi\n"),
        (b"Hi\r\n\r\n", "Hi\r\n"),
        (b" Hi", " Hi"),
        (b"Hi\r", "Hi\r"),
        (b"\n", ""),
        (b"", ""),
        (b"\xef\xbb\xbfH\xc3\xa9\n", "Hé"),
        (b"x" * wire.MAX_BODY_BYTES, "x" * wire.MAX_BODY_BYTES),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_one_final_newline_is_dropped_whatever_the_locale(
    monkeypatch: pytest.MonkeyPatch, data: bytes, prompt: str, encoding: str
) -> None:
    assert piped(monkeypatch, data, encoding) == prompt


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"caf\xe9", "not UTF-8"),
        (b"\xff\xfeH\0i\0", "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"a\0b", "not text"),
        (b"x" * (wire.MAX_BODY_BYTES + 1), "too long"),
    ],
)
def test_what_is_no_prompt_is_refused(
    monkeypatch: pytest.MonkeyPatch, data: bytes, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        piped(monkeypatch, data)


def test_closed_standard_input_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="closed"):
        ask._piped()


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_prompt_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        ask._body(text, "")


def test_a_text_with_bytes_that_are_no_utf_8_is_refused() -> None:
    assert ask.given("--stop", "é") == "é"
    with pytest.raises(UsageError, match="--stop is not UTF-8"):
        ask.given("--stop", b"\xe9".decode("utf-8", "surrogateescape"))


# --- a broker that is named -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("pi", "pi", 1883),
        ("pi:2", "pi", 2),
        ("127.0.0.1:9", "127.0.0.1", 9),
        ("[::1]:5", "::1", 5),
        ("[::1]", "::1", 1883),
    ],
)
def test_a_broker_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert project.parse_broker(text, BrokerConfig()) == BrokerConfig(host, port)


@pytest.mark.parametrize(
    "text", ["", ":1883", "pi:", "pi:x", "pi:0", "pi:99999", "mqtt://pi", "::x", "a b", "[x]:1"]
)
def test_what_is_no_broker_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a broker"):
        project.parse_broker(text, BrokerConfig())


def test_a_project_is_needed_only_where_no_broker_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEKIT_BROKER", raising=False)
    with pytest.raises(UsageError, match="there is no edgekit"):
        project.find_or_bare(None, broker=None)
    assert project.find_or_bare(None, broker="pi").broker == BrokerConfig()
    with pytest.raises(UsageError, match="there is no edgekit"):  # it was asked for by name
        project.find_or_bare(tmp_path, broker="pi")
    monkeypatch.setenv("EDGEKIT_BROKER", "pi:5")
    assert project.find_or_bare(None, broker=None).broker == BrokerConfig("pi", 5)
    assert list(tmp_path.iterdir()) == []


def test_a_project_that_is_there_counts_with_its_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    monkeypatch.delenv("EDGEKIT_BROKER", raising=False)
    (tmp_path / "edgekit.toml").write_text('requester = "alice"')
    assert project.find_or_bare(None, broker="pi").requester == "alice"
    (tmp_path / "edgekit.toml").write_text("nonsense")
    with pytest.raises(UsageError, match="is not valid"):
        project.find_or_bare(None, broker="pi")


def test_a_file_with_a_schema_asks_for_an_answer_that_fits_it(tmp_path: Path) -> None:
    file = tmp_path / "verdict.json"
    file.write_text('{"type": "object"}')
    assert schema_format(file) == {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": {"type": "object"}},
    }
    assert schema_format(None) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "no JSON Schema"),
        ('{"a": {"type": "string", "type": "null"}}', "has a key twice"),
        ("x" * (128 << 11), "too long"),
    ],
)
def test_a_file_without_a_schema_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "verdict.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=words):
        schema_format(file)


@pytest.mark.parametrize(
    ("numbers", "shown"), [([0, 1, 2], "ABC"), ([0, 2], "A"), ([1, 2], ""), ([0, 2, 3], "A")]
)
def test_behind_a_lost_piece_nothing_is_shown_until_the_end(
    numbers: list[int], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was shown of both sides of it was no beginning of the answer, which then came twice."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choice = {"index": 0, "message": {"content": "ABCD"}, "finish_reason": "stop"}
    final = Final("pi-1", {"choices": [choice], "usage": usage})
    told: list[Reply] = [*(Delta(number, "ABCD"[number]) for number in numbers), final]
    assert ask._show(told, "pi-1")[0] == shown
    with AnswerView("pi-1") as view:
        for each in told:
            view.show(each)
    assert view.text == "ABCD"
    assert capsys.readouterr().out == f"{shown}ABCD\n"
