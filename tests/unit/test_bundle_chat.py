"""What `pack` refuses to pack because a device could not serve chats with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekit.bundle import chat
from edgekit.bundle.chat import check_chat
from edgekit.errors import EdgekitError, UsageError
from edgekit.tokens.__main__ import measured
from tests.models.chat_templates import CHATML
from tests.models.tokenizer_kinds import make_tokenizer

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_folder_that_serves_chats_is_taken(tmp_path: Path) -> None:
    check_chat(make_tokenizer("byte-bpe", tmp_path, CHATML))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", None, r"has no tokenizer\.json"),
        ("tokenizer.json", "{}", r"tokenizer\.json cannot be read"),
        ("chat_template.jinja", None, "has no chat template"),
        ("chat_template.jinja", "{% if %}", "cannot be read"),
        ("chat_template.jinja", "{{ raise_exception('no') }}", "the chat template refused: no"),
        ("chat_template.jinja", ENDLESS, "was stopped"),
        ("chat_template.jinja", "{% if messages[9] %}" + ENDLESS + "{% endif %}", "too slow"),
        ("chat_template.jinja", "{{ messages[0].content.text }}", "shows nothing"),
    ],
)
def test_what_a_device_could_not_serve_is_refused(
    name: str, content: str | None, said: str, tmp_path: Path
) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, CHATML)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(UsageError, match=said) as refused:
        check_chat(folder)
    assert refused.value.next_step


def test_a_sign_of_ordinary_text_is_no_control_token(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="takes '!' for a control token"):
        measured(make_tokenizer("byte-bpe", tmp_path, CHATML, ["!"]))


def test_a_template_that_ends_the_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, CHATML)
    monkeypatch.setattr(chat, "TRY_SECONDS", 0.01)
    with pytest.raises(UsageError, match="does not end"):
        check_chat(folder)
    monkeypatch.setattr(chat, "TRY_SECONDS", 60)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UsageError, match="ended the process"):
        check_chat(folder)
