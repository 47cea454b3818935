"""What `pack` refuses to pack because a device could not serve chats with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgekit.bundle import chat
from edgekit.bundle.chat import check_chat
from edgekit.errors import EdgekitError, UsageError
from edgekit.tokens.__main__ import measured
from tests.models.chat_templates import CHATML
from tests.models.tokenizer_kinds import make_tokenizer

EVEN_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
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


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (
            "unigram-nfkc",
            {"clean_up_tokenization_spaces": True},
            "sets clean_up_tokenization_spaces;",
        ),
        ("unigram-nfkc", {"clean_up_tokenization_spaces": False}, ""),
        ("byte-bpe", {"clean_up_tokenization_spaces": True}, ""),  # transformers ignores it there
        ("byte-bpe", {"clean_up_tokenization_spaces": True, EVEN_BPE: True}, EVEN_BPE),
        ("byte-bpe", {EVEN_BPE: True}, ""),
    ],
)
def test_blanks_that_transformers_takes_away_afterwards_are_refused(
    kind: str, settings: dict[str, bool], said: str, tmp_path: Path
) -> None:
    folder = make_tokenizer(kind, tmp_path, CHATML)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    if not said:
        measured(folder)
        return
    with pytest.raises(EdgekitError) as refused:
        measured(folder)
    assert said in refused.value.why
    assert "clean_up_tokenization_spaces to false" in refused.value.next_step


@pytest.mark.parametrize(("stop", "right"), [(0, True), (1, False), (2, False)])
def test_a_decoder_that_panics_over_blanks_is_refused(
    stop: int, right: bool, tmp_path: Path
) -> None:
    folder = make_tokenizer("llama-metaspace", tmp_path, CHATML)
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    strip = {"type": "Strip", "content": " ", "start": 0, "stop": stop}
    spec["decoder"] = {"type": "Sequence", "decoders": [spec["decoder"], strip]}
    path.write_text(json.dumps(spec))
    if right:
        measured(folder)
    else:
        with pytest.raises(EdgekitError, match="off the end") as refused:
            measured(folder)
        assert f"stop {stop}" in refused.value.why


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
