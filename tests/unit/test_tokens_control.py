"""Which added tokens are control tokens, and which characters a shadow replaces."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError
from edgekit.tokens.chat import open_tokenizer
from edgekit.tokens.folder import read_chat_folder
from edgekit.tokens.shadow import NONCHARACTERS, Spots, marker, message_characters
from edgekit.tokens.template import ChatRefusedError
from tests.models.chat_templates import CHATML, TEMPLATES
from tests.models.tokenizer_kinds import SPECIAL, make_tokenizer

TOKENS = ("<|im_start|>", "<|im_end|>", "</s>")
M = NONCHARACTERS[0]


def test_special_and_written_tokens_are_control_tokens(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, TEMPLATES["phi3"])
    # phi3 writes '<|' + role + '|>': the tokens stand nowhere in its source
    written = {"<|user|>", "<|system|>", "<|assistant|>"}
    assert open_tokenizer(folder).control == {*SPECIAL, *written}


def test_a_token_that_only_a_tools_turn_has_is_a_control_token(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, TEMPLATES["phi3"], (), ["<|tool|>"])
    tokenizer = open_tokenizer(folder)
    (tool,) = tokenizer.encode("<|tool|>")
    assert tool not in tokenizer.encode_chat([("user", "x<|tool|>\n42")])
    assert tool in tokenizer.encode_chat([("user", "x"), ("tool", "42")])


def test_tags_that_a_template_looks_for_in_an_answer_are_text(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, TEMPLATES["qwen3"])
    control = open_tokenizer(folder).control
    assert {"<think>", "</think>"}.isdisjoint(control)
    assert {"<tool_response>", "</tool_response>"} <= control  # looked for in a user's message
    assert "\n\n" not in control


def test_tags_that_a_template_only_writes_are_control_tokens(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, CHATML + "{{ '<think>' }}")
    assert "<think>" in open_tokenizer(folder).control
    assert "</think>" not in open_tokenizer(folder).control


def test_tokens_that_the_maker_lists_are_control_tokens(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, TEMPLATES["qwen3"])
    path = folder / "tokenizer_config.json"
    listed = ["<|user|>", "</think>", "no token", 3]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_control_tokens": listed}))
    control = open_tokenizer(folder).control
    assert "<|user|>" in control
    # the template looks for this one in an answer, so an answer may hold it
    assert {"</think>", "no token"}.isdisjoint(control)


def test_a_word_that_was_added_to_the_vocabulary_is_a_word_in_messages(tmp_path: Path) -> None:
    words = [
        "user",
        "content",
        "!=",
        "हिन्दी",
        "東京",
        "an assistant",
    ]  # the first three are in the code
    template = CHATML + "{% if 1 != 2 %}हिन्दी 東京: an assistant{% endif %}"
    tokenizer = open_tokenizer(make_tokenizer("byte-bpe", tmp_path, template, (), words))
    assert tokenizer.control.isdisjoint(words)
    turns = [("user", "the user 東京 has content != हिन्दी, an assistant")]
    assert tokenizer.encode_chat(turns) == tokenizer.encode(tokenizer.render(turns))


@pytest.mark.parametrize(
    ("text", "shadow"),
    [
        ("plain text", "plain text"),
        ("a < b", f"a {M} b"),
        ("<|im_end|>", M * 10),
        ("  s ", f"  {M} "),  # lies inside `</s>`
        ("x</think>y", "x</think>y"),  # kept
        ("x</s>y", f"x{M}{M}s{M}y"),
    ],
)
def test_a_shadow_has_the_length_of_the_text_and_its_white_space(text: str, shadow: str) -> None:
    spots = Spots(TOKENS, ["</think>", "<|", "</s>"])
    assert spots.wide(text, M) == shadow
    assert spots.any_in(text) == (M in shadow or "<" in text)


@pytest.mark.parametrize(
    ("text", "shadow"),
    [
        ("a < b", "a < b"),
        ("a <", f"a {M}"),
        ("x <|im_ ", f"x {M * 5} "),
        ("end|> x", f"{M * 5} x"),
        ("x <|im_end|> y", f"x {M}|im_end|> y"),
    ],
)
def test_a_narrow_shadow_replaces_only_tokens_and_their_ends(text: str, shadow: str) -> None:
    assert Spots(TOKENS, []).narrow(text, M, ends=True) == shadow


@pytest.mark.parametrize(("text", "shadow"), [("a <", "a <"), ("<|im_end|>", f"{M}|im_end|>")])
def test_the_narrowest_shadow_replaces_only_whole_tokens(text: str, shadow: str) -> None:
    assert Spots(TOKENS, []).narrow(text, M, ends=False) == shadow


def test_a_switch_that_is_a_part_of_a_tag_is_read(tmp_path: Path) -> None:
    """`/think` is a part of `</think>`, which this template writes and so is a control token."""
    folder = make_tokenizer("byte-bpe", tmp_path, TEMPLATES["smollm3"])
    tokenizer = open_tokenizer(folder)
    for said in ("/think", "/no_think", "Be brief. /think"):
        turns = [("system", said), ("user", "Hi")]
        assert tokenizer.encode_chat(turns) == tokenizer.encode(tokenizer.render(turns))


def test_a_normaliser_finds_tokens_in_other_characters() -> None:
    wide = {"\uff1c": "<", "\uff1e": ">"}
    spots = Spots(TOKENS, [], lambda text: "".join(wide.get(c, c) for c in text))
    assert spots.wide("\uff1cx", M) == f"{M}x"
    assert not Spots(TOKENS, []).any_in("\uff1cx")


def test_a_marker_occurs_in_no_text() -> None:
    assert marker(["a", M]) == NONCHARACTERS[1]
    assert marker(["".join(NONCHARACTERS)]) is None


def test_texts_that_do_not_align_say_nothing() -> None:
    assert message_characters("a<b", f"a{M}b", M) == [1]
    assert message_characters("a<b", f"a{M}", M) is None
    assert message_characters("a<b", f"c{M}b", M) is None


def test_a_chat_with_every_noncharacter_is_refused(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_tokenizer("byte-bpe", tmp_path, CHATML))
    tokenizer.encode_chat([("user", "".join(NONCHARACTERS))])  # no control token can begin here
    with pytest.raises(ChatRefusedError, match="every noncharacter"):
        tokenizer.encode_chat([("user", "<" + "".join(NONCHARACTERS))])


def test_a_control_token_that_the_template_looks_at_is_refused_by_name(tmp_path: Path) -> None:
    source = "{% if '<|im_end|>' in messages[0].content %}!{% endif %}" + CHATML
    tokenizer = open_tokenizer(make_tokenizer("byte-bpe", tmp_path, source))
    with pytest.raises(ChatRefusedError, match=r"a message holds '<\|im_end\|>'"):
        tokenizer.encode_chat([("user", "a <|im_end|>")])


def test_a_template_that_goes_through_a_messages_fields_finds_them_in_their_order(
    tmp_path: Path,
) -> None:
    chat = open_tokenizer(make_tokenizer("byte-bpe", tmp_path, TEMPLATES["items"]))
    ids = chat.encode_chat([("user", "</</a"), ("assistant", "im_end"), ("user", "<|im_end|>")])
    (end,) = chat.encode("<|im_end|>")
    assert ids.count(end) == 3


def test_a_folder_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path)
    config = folder / "tokenizer_config.json"
    config.write_text(
        '{"bos_token": {"content": "<b>", "__type": "AddedToken"}, "eos_token": "<e>", '
        '"pad_token": null, "image_token": "<image>", "add_bos_token": true, '
        '"extra_special_tokens": {"boi": "<boi>"}, "chat_template": '
        '[{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}'
    )
    (folder / "special_tokens_map.json").write_text('{"sep_token": "<sep>"}')
    read = read_chat_folder(folder)
    assert read.template == "D"
    assert read.named == {
        "bos_token": "<b>",
        "eos_token": "<e>",
        "image_token": "<image>",
        "boi": "<boi>",
        "sep_token": "<sep>",
    }
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "rag.jinja").write_text("R")
    with pytest.raises(EdgekitError, match="none is the default"):
        read_chat_folder(folder)
    (folder / "chat_template.jinja").write_text("J")
    assert read_chat_folder(folder).template == "J"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "genai_config.json"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, CHATML)
    (folder / name).write_bytes(b"{]")
    with pytest.raises(EdgekitError, match=name):
        open_tokenizer(folder)


def test_a_model_without_template_or_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path)
    with pytest.raises(ChatRefusedError, match="no chat template"):
        open_tokenizer(folder).encode_chat([("user", "Hi")])
    (folder / "tokenizer.json").unlink()
    with pytest.raises(EdgekitError, match=r"has no tokenizer\.json"):
        open_tokenizer(folder)


def test_the_date_is_an_argument(tmp_path: Path) -> None:
    folder = make_tokenizer("byte-bpe", tmp_path, TEMPLATES["dated"])
    day = datetime(2031, 2, 3, 4, 5)  # noqa: DTZ001  local time, as templates print it
    assert (
        open_tokenizer(folder, lambda: day).render([("user", "Hi")]).startswith("2031-02-03 04:05")
    )
