"""What `edgekit chat` decides: what a line means, what a conversation is, and whom it is with."""

from __future__ import annotations

import json
import os
import queue
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.cli.talk.chat import chat as chatting
from edgekit.cli.talk.chat import commands, log, partner, terminal
from edgekit.cli.talk.chat.chat import Chat, ChatSettings
from edgekit.cli.talk.chat.commands import UserText, goes_on, joined, parse
from edgekit.cli.talk.chat.log import ChatLog
from edgekit.cli.talk.chat.partner import Partner, serving
from edgekit.cli.talk.chat.view import AnswerView
from edgekit.client import Reply, SentPicture
from edgekit.core.protocol.wire import ProtocolError
from edgekit.errors import EdgekitError, UnreachableError, UsageError
from edgekit.gateway.catalog import Served

PI = Served("pi-1", "toy", "1", pools=("kitchen",), state="ready", context_length=1024)
TWO = Served("pi-2", "toy", "1", pools=("kitchen",), state="ready", queue=2)
NANO = Served("nano", "large", "3", state="lost")
KNOWN = {each.name: each for each in (PI, TWO, NANO)}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


# --- lines --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Hello", UserText("Hello")),
        (" /etc/passwd is a file", UserText(" /etc/passwd is a file")),
        ("/system Be brief.", UserText("Be brief.", "/system")),
        ("/system", UserText("", "/system")),
        ('/system """Be brief.\nBe kind."""', UserText("Be brief.\nBe kind.", "/system")),
        ('"""\none\ntwo\n"""', UserText("one\ntwo")),
        ('say """x""" to me', UserText('say """x""" to me')),
        ("/quit", UserText("", "/quit")),
    ],
)
def test_what_a_text_means(text: str, meant: UserText) -> None:
    assert parse(text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/sytem x", "did you mean /system?"),
        ("/etc/passwd", "a message that begins with / has a space before it"),
        ("/save", "/save takes FILE"),
        ("/new now", "/new takes nothing"),
    ],
)
def test_what_is_no_command_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert said in str(refused.value)


def test_a_text_goes_on_after_a_backslash_and_within_quotes() -> None:
    assert goes_on("one\\")
    assert joined("one\\", "two") == "one\ntwo"
    assert goes_on('"""one')
    assert joined('"""one\\', 'two"""') == '"""one\\\ntwo"""'
    assert not goes_on('"""one\ntwo"""')
    assert not goes_on("one")


@pytest.mark.parametrize("text", ["0", "-1", "x", "²", "1.5"])
def test_a_number_of_questions_is_one(text: str) -> None:
    assert commands.count_of("3", 9) == 3
    assert commands.count_of("", 9) == 9
    with pytest.raises(UsageError):
        commands.count_of(text, 9)


def test_the_help_has_every_command() -> None:
    told = "\n".join(commands.help_lines())
    assert all(name in told for name in commands.COMMANDS)


# --- the conversation ---------------------------------------------------------------------------
TALK = ChatLog("Be brief.").answered(user("a"), "A").answered(user("b"), "B")


def test_a_prompt_has_all_that_was_said() -> None:
    messages = TALK.asking(user("c"))
    assert [each["content"] for each in messages] == ["Be brief.", "a", "A", "b", "B", "c"]
    assert [each["role"] for each in messages[:3]] == ["system", "user", "assistant"]


def test_the_oldest_questions_can_be_dropped_and_the_system_message_stays() -> None:
    assert log.half(TALK) == 1
    left = TALK.without_oldest(1)
    assert [each["content"] for each in left.asking(user("c"))] == ["Be brief.", "b", "B", "c"]
    assert log.half(left) == 1
    assert left.without_oldest(5).questions == 0


def test_a_conversation_is_read_as_it_was_written() -> None:
    assert log.read(log.as_json(TALK), "f") == TALK
    body = json.loads(log.as_json(TALK))  # which any client of OpenAI's takes
    assert [each["role"] for each in body["messages"]] == [
        *("system", "user", "assistant", "user", "assistant")
    ]


def test_what_another_client_kept_is_read_without_what_is_not_said() -> None:
    more = {"role": "assistant", "content": "A", "reasoning_content": "Hm."}
    other = json.dumps({"model": "m", "messages": [user("a"), more]}).encode()
    assert log.read(other, "f") == ChatLog().answered(user("a"), "A")
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    other = json.dumps({"messages": [{"role": "developer", "content": parts}]}).encode()
    assert log.read(other, "f") == ChatLog("Be brief.")


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    "more",
    [
        {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
        {"tool_call_id": "c"}, {"function_call": {"name": "f"}}, {"audio": {"id": "a"}},
        {"refusal": "I cannot."},
    ],
)  # fmt: skip
def test_what_a_chat_has_no_place_for_is_not_lost_in_silence(
    number: int, more: dict[str, Any]
) -> None:
    messages = [{"role": "system", "content": "Be brief."}, user("a"), {**user("A")}]
    messages[2]["role"] = "assistant"
    empty = [message | dict.fromkeys(more) | {"tool_calls": []} for message in messages]
    assert log.read(json.dumps({"messages": empty}).encode(), "f").questions == 1
    messages[number - 1] |= more
    with pytest.raises(UsageError) as refused:
        log.read(json.dumps({"messages": messages}).encode(), "talk.json")
    assert f"message {number} has {next(iter(more))}, which" in refused.value.why


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"no", "truncated"),
        (b"[]", "object"),
        (b"{}", "messages"),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "has no answer"),
        (b'{"messages": [{"role": "assistant", "content": "a"}]}', "message 1 is not the user's"),
        (b'{"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}', "content"),
        (b'{"messages": [{"role": "user", "content": 7}]}', "int"),
        (b'{"messages": [{"role": "system", "content": null}]}', "system message is no text"),
        (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "comes twice"),
        (b'{"messages": [{"role": ' + b"[" * 100_000, "recursion"),
    ],
)
def test_a_file_that_is_no_conversation_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        log.read(data, "talk.json")
    assert "talk.json is no conversation" in refused.value.what
    assert why in refused.value.why


def test_a_picture_is_a_word_to_people() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "text", "text": "What?"},
    ]
    seen = ChatLog().answered({"role": "user", "content": parts}, "A cat.")
    assert b"[picture]\nWhat?" in log.as_markdown(seen)
    assert log.read(log.as_json(seen), "f") == seen


# --- the partner --------------------------------------------------------------------------------
def test_a_pool_stays_with_the_device_that_keeps_the_prefix() -> None:
    pool = partner.partner("pool:kitchen")
    assert pool.next(KNOWN) == "pool:kitchen"
    kept = pool.answered_by("pi-1")
    assert kept.next(KNOWN) == "pi-1"
    assert kept.next({}) == "pi-1"  # an ACL may hide it
    assert kept.next(KNOWN | {"pi-1": Served("pi-1", "toy", state="lost")}) == "pool:kitchen"
    forgotten = {name: each for name, each in KNOWN.items() if name != "pi-1"}
    assert kept.next(forgotten) == "pool:kitchen"
    assert Partner("pi-1").answered_by("pi-1") == Partner("pi-1")


def test_another_device_of_a_pool_is_asked_only_where_that_can_help() -> None:
    kept = Partner("pool:kitchen", "pi-1")
    assert kept.elsewhere(ProtocolError("queue_full", "full"), "pi-1")
    assert kept.elsewhere(UnreachableError("gone"), "pi-1")
    assert not kept.elsewhere(ProtocolError("invalid_request", "no"), "pi-1")
    assert not kept.elsewhere(ProtocolError("queue_full", "full"), "pool:kitchen")
    assert not Partner("pi-1").elsewhere(ProtocolError("queue_full", "full"), "pi-1")


def test_whom_the_broker_knows_to_be_gone_is_refused_at_once() -> None:
    partner.check_there("pi-1", KNOWN)
    partner.check_there("pool:kitchen", KNOWN)
    partner.check_there("anybody", {})
    with pytest.raises(UnreachableError, match="does not answer"):
        partner.check_there("nano", KNOWN)
    with pytest.raises(UsageError) as close:
        partner.check_there("pi-11", KNOWN)
    assert "did you mean 'pi-1'?" in close.value.why
    with pytest.raises(UsageError, match="no pool 'pool:attic'"):
        partner.check_there("pool:attic", KNOWN)


def test_a_model_is_that_of_the_device_with_the_least_to_do() -> None:
    assert serving("toy", KNOWN) == Partner("pi-1")
    with pytest.raises(UsageError) as lost:
        serving("large", KNOWN)
    assert "nano is `lost`" in lost.value.why
    with pytest.raises(UsageError) as unknown:
        serving("device:pi-1", KNOWN)  # a model alone
    assert "there is large, toy" in unknown.value.why


@pytest.mark.parametrize(
    ("error", "questions", "way"),
    [
        (ProtocolError("context_length_exceeded", "long"), 2, "/drop"),
        (ProtocolError("payload_too_large", "long"), 2, "/drop"),
        (ProtocolError("context_length_exceeded", "long"), 0, "shorter"),
        (ProtocolError("queue_full", "full"), 0, "/retry"),
        (ProtocolError("invalid_request", "no"), 0, ""),
        # another device by /device, which reads text alone: each message was refused from then on
        (
            ProtocolError(
                "unsupported_parameter", "toy reads text alone: this device takes no pictures"
            ),
            2,
            "/new",
        ),
        # a third picture: nothing said how such a conversation goes on
        (ProtocolError("invalid_request", "3 (images_per_prompt)", "messages"), 2, "/drop"),
        (ProtocolError("invalid_request", "3 (images_per_prompt)", "messages"), 0, "fewer"),
        (
            ProtocolError("invalid_request", "2 (images_per_prompt)", "messages[2].content"),
            2,
            "fewer",
        ),
        (UnreachableError("gone", "", "start it"), 0, ""),
        (EdgekitError("x"), 0, ""),
    ],
)
def test_there_is_a_way_on(error: EdgekitError, questions: int, way: str) -> None:
    told = partner.way_on(error, questions)
    assert way in told
    assert bool(way) == bool(told)


def test_lists_for_people() -> None:
    lines = partner.device_lines(KNOWN, Partner("pi-1"))
    assert lines[0] == "  nano          lost  large:3"
    assert lines[1] == "* pi-1          ready  toy:1  context 1024"
    assert lines[-1] == "  pool:kitchen"
    assert partner.model_lines(KNOWN) == ["large  nano", "toy  pi-1, pi-2"]


# --- files and pictures -------------------------------------------------------------------------
def talking(monkeypatch: pytest.MonkeyPatch) -> tuple[Chat, list[object]]:
    """A chat whose device takes nothing, and what was sent to it."""
    sent: list[object] = []

    def refuse(self: Chat, to: str, message: dict[str, Any], view: object) -> None:
        sent.append(message["content"])
        raise UnreachableError("gone")

    monkeypatch.setattr(Chat, "_ask_one", refuse)
    watch: Any = SimpleNamespace(known={})
    requester: Any = None
    settings = ChatSettings({}, 60, interactive=True)
    return Chat(requester, watch, Partner("pi-1"), TALK, settings), sent


def test_a_picture_goes_with_one_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, sent = talking(monkeypatch)
    picture = SentPicture(b"\xff\xd8\xff", 1, 1, "a.jpg", 3, 1, 1)
    monkeypatch.setattr("edgekit.cli.talk.chat.chat.shrunk", lambda *_: [picture])
    chat.take("/image a.jpg")
    for text in ("What?", "/retry", "/drop", "Hello"):
        with pytest.raises(UnreachableError):
            chat.take(text)
    assert [isinstance(each, list) for each in sent] == [True, True, True, False]


@pytest.mark.parametrize("command", ["/save", "/load", "/image"])
@pytest.mark.parametrize("file", ["~nobody-of-this-name/x", "x" * 5000, "a\0b"])
def test_a_slip_in_a_path_is_an_error_and_not_the_end(
    monkeypatch: pytest.MonkeyPatch, command: str, file: str
) -> None:
    with pytest.raises(UsageError):
        talking(monkeypatch)[0].take(f"{command} {file}")


def test_a_conversation_is_saved_for_its_owner_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    talking(monkeypatch)[0].take(f"/save {tmp_path / 'talk.json'}")
    assert (tmp_path / "talk.json").stat().st_mode & 0o777 == 0o600


# --- the history --------------------------------------------------------------------------------
def test_the_history_is_for_its_owner_and_keeps_whole_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = terminal.history_file()
    assert path == tmp_path / "edgekit" / "chat-history"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    path.chmod(0o644)
    entry = b"\n# 2026-01-01 00:00:00\n+" + b"x" * 1000 + b"\n"
    path.write_bytes(entry * 2000)
    assert terminal.history_file() == path
    kept = path.read_bytes()
    assert terminal.KEPT_HISTORY_BYTES - len(entry) < len(kept) <= terminal.KEPT_HISTORY_BYTES
    assert kept == entry * (len(kept) // len(entry))
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_a_place_for_it_there_is_no_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "edgekit").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert terminal.history_file() is None
    assert "is not kept" in capsys.readouterr().err


def test_ctrl_c_right_behind_enter_cancels_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is on its way, and the terminal does not yet show that it waits."""
    asked: list[str] = []
    cancelled: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Asked:
        def ask(self, to: str, body: object, **named: Any) -> Iterator[Reply]:
            asked.append(named["prompt_id"])
            os.kill(os.getpid(), signal.SIGINT)
            cancelled.get(timeout=5)
            raise ProtocolError("cancelled", "it was cancelled")
            yield

        def cancel(self, to: str, prompt_id: str) -> None:
            cancelled.put(prompt_id)

    class SlowView(AnswerView):
        def __enter__(self) -> AnswerView:
            time.sleep(0.2)
            return super().__enter__()

    monkeypatch.setattr(chatting, "AnswerView", SlowView)
    settings = ChatSettings({}, 30, interactive=True)
    requester: Any = Asked()
    watch: Any = SimpleNamespace(known={})
    chat = Chat(requester, watch, Partner("pi-1"), ChatLog(), settings)
    # who starts the tests in the background has Ctrl-C ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(EdgekitError, match="it was cancelled"):
            chat.take("Hello")
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(asked) == 1
