"""Chat templates that take a message's content as parts alone, as SmolVLM's does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from edgekit.builder.inside.gate.text import taken
from edgekit.tokens.conversation import Conversation, conversation
from edgekit.tokens.parts import image_of, place_in, placed, rendered_parts
from edgekit.tokens.template import ChatTemplate

# the shape of HuggingFaceTB/SmolVLM-256M-Instruct's
PARTS = (
    "{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end>\n{% endfor %}"
)
TEXTS = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
EITHER = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% endfor %}"
)
# the shape of ibm-granite/granite-docling-258M's
EITHER_WITH_IMAGES = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}{% endif %}<end>\n"
    "{% endfor %}"
)
BLIND = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
STRICT = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ raise_exception('parts') }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}{{ raise_exception('texts') }}{% endif %}{% endfor %}{% endfor %}"
)
CHANGED = "{% for message in messages %}{{ message['content'][-1] }}{% endfor %}"
PICTURE = b"\x89PNG"


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {}, datetime.now)


@pytest.mark.parametrize(
    ("source", "image", "takes_text"),
    [
        (PARTS, "<image>", False), (TEXTS, None, True), (EITHER, None, True), (BLIND, "", False),
        ("nothing", None, False), (STRICT, "", False), (CHANGED, None, False),
        (EITHER_WITH_IMAGES, "<image>", True),
    ],
)  # fmt: skip
def test_what_a_template_takes_is_found_by_rendering(
    source: str, image: str | None, takes_text: bool
) -> None:
    assert image_of(template(source).render) == (image, takes_text)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (PARTS, True),
        (TEXTS, False),
        (EITHER, False),
        (STRICT, True),
        (CHANGED, False),
        ("nothing", False),
    ],
)
def test_the_gate_says_a_chat_as_a_device_does(source: str, parts: bool) -> None:
    class Tokenizer:
        def apply_chat_template(self, chat: list[dict[str, Any]], tokenize: bool) -> str:
            return template(source).render(chat)

    chat = [{"role": "user", "content": "Hello"}]
    told = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    assert taken(Tokenizer(), chat) == (told if parts else chat)


def rendered(
    turns: Sequence[Any], source: str = PARTS, *, takes_text: bool = False
) -> tuple[str, str, int]:
    chat, pictures = placed(conversation(turns), parts=True)

    def render(given: Conversation) -> str:
        return template(source).render(given.messages)

    text = rendered_parts(render, chat, "<image>", takes_text=takes_text)
    return text, chat.place, pictures


def test_an_empty_message_is_shown_as_an_empty_part() -> None:
    """An answer may have no text, and the conversation goes on."""
    text, _, _ = rendered([("user", "Hello"), ("assistant", ""), ("user", [PICTURE, ""])])
    assert text.startswith("User: Hello<end>\nAssistant: <end>\nUser:")


def test_a_template_that_takes_either_writes_a_pictures_place_itself() -> None:
    """As transformers shows parts to it: with no new line that Phi-3.5's processor would have."""
    turns = [("system", "Be brief."), ("user", [PICTURE, "What?"]), ("user", "<image>")]
    text, place, pictures = rendered(turns, EITHER_WITH_IMAGES, takes_text=True)
    assert pictures == 1
    assert text == f"<system>Be brief.<end>\n<user>{place}What?<end>\n<user><image><end>\n"
    string_system = "{{ messages[0]['content'] }}|" + EITHER_WITH_IMAGES
    text, _, _ = rendered(turns, string_system, takes_text=True)
    assert text.startswith("Be brief.|<system>")


def test_what_a_template_writes_around_a_place_stays() -> None:
    assert place_in("\n<image>\n", ["<image>", "<end>", "\n"]) == "<image>"
    # the processor writes tokens around a picture too, and takes away none that are there
    around = "<fake_token_around_image><image><fake_token_around_image>"
    assert place_in(around, ["<fake_token_around_image>", "<image>"]) == "<image>"
    assert place_in("<start><pad><end>", ["<start>", "<pad>", "<end>"]) == "<start><pad><end>"
    assert place_in("[picture]", ["<image>"]) == "[picture]"


def test_a_text_is_shown_as_a_part() -> None:
    text, _, pictures = rendered([("user", "Hello"), ("assistant", "Hi."), ("user", "And?")])
    assert (text, pictures) == ("User: Hello<end>\nAssistant: Hi.<end>\nUser: And?<end>\n", 0)


def test_a_picture_has_a_place_where_the_template_writes_it() -> None:
    text, place, pictures = rendered([("user", [PICTURE, "What?", PICTURE]), ("user", "Well?")])
    assert pictures == 2
    assert text == f"User:{place}What?{place}<end>\nUser: Well?<end>\n"


@pytest.mark.parametrize("typed", [["<image>"], ["<ima", "ge>"], ["<<image>image>"]])
def test_what_a_requester_types_is_no_place(typed: list[str]) -> None:
    text, place, pictures = rendered([("user", [*typed, PICTURE]), ("user", "".join(typed))])
    assert (pictures, text.count(place)) == (1, 1)
    said = "".join(typed)
    assert text == f"User: {said}{place}<end>\nUser: {said}<end>\n"
