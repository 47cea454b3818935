"""Chat templates that take a message's content as parts alone, as SmolVLM's does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from edgekit.tokens.conversation import Conversation, conversation
from edgekit.tokens.parts import image_of, placed, rendered_parts
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
BLIND = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
PICTURE = b"\x89PNG"


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {}, datetime.now)


@pytest.mark.parametrize(
    ("source", "image"),
    [(PARTS, "<image>"), (TEXTS, None), (EITHER, None), (BLIND, ""), ("nothing", None)],
)
def test_what_a_template_takes_is_found_by_rendering(source: str, image: str | None) -> None:
    assert image_of(template(source).render) == image


def rendered(turns: Sequence[Any]) -> tuple[str, str, int]:
    chat, pictures = placed(conversation(turns), parts=True)

    def render(given: Conversation) -> str:
        return template(PARTS).render(given.messages)

    return rendered_parts(render, chat, "<image>"), chat.place, pictures


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
