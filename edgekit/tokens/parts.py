"""Chat templates that take a message's content as parts, and write a picture's place themselves.

Most templates take a text. One that takes parts alone shows nothing of a text: of SmolVLM's, each
character would be a part of no known type. Others take either, and see a picture in parts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from edgekit.tokens.bounds import bounded
from edgekit.tokens.conversation import Conversation, Turn, conversation, with_places
from edgekit.tokens.shadow import marker
from edgekit.tokens.template import ChatRefusedError, ChatTemplate, Message

_PROBE = "Xprobe7"  # a text that no template writes itself
_PLACE = "<image>"  # of SmolVLM, whatever its template writes around it
_OTHER = "Yrecord3"  # another one
_TEXT, _IMAGE = {"type": "text", "text": _PROBE}, {"type": "image"}


def image_of(render: Callable[[Sequence[Message]], str]) -> tuple[str | None, bool]:
    """Return what a template writes for a picture, and whether it takes a message's text, too.

    The first is None where it takes no parts, or takes a text and knows no picture.

    Args:
        render: renders messages by the template.
    """
    told = _shown(render, _PROBE)
    takes_text = _PROBE in told
    # one that takes texts alone would print the list, as Python does
    if takes_text and _shown(render, [_TEXT]) != told:
        return None, True
    texts = _shown(render, [_TEXT, _IMAGE, _TEXT]).split(_PROBE)
    image = texts[1] if len(texts) == 3 else None
    if takes_text:
        return image or None, True
    # it refuses pictures; one that changes a text shows another one for another text
    blind = told == _shown(render, _OTHER)
    if image is None and blind and _PROBE in _shown(render, [_TEXT]):
        return "", False
    return image, False


def place_in(image: str, added: Iterable[str]) -> str:
    """Return the part of what a template writes for a picture in whose place the picture goes.

    That is the one added token in it, if there is one, or `<image>` among several, as Hugging
    Face's processors have it; what the template writes around it, such as a new line, stays in the
    prompt.

    Args:
        image: what the template writes.
        added: the texts of the tokenizer's added tokens.
    """
    found = [text for text in added if text.strip() and text in image]
    if _PLACE in found and image.count(_PLACE) == 1:
        return _PLACE
    return found[0] if len(found) == 1 else image


def placed(chat: Conversation, *, parts: bool) -> tuple[Conversation, int]:
    """Return the conversation with a place for each picture, and their number.

    Args:
        parts: the template takes parts, and writes the places itself.

    Raises:
        ChatRefusedError: no character is left for a place.
    """
    place = _unused(chat.texts)
    if not parts:
        told, count = with_places(chat, f"{place}\n")
        return replace(told, place=place), count
    contents = [message["content"] for message in chat.messages]
    each = [part for content in contents if isinstance(content, list) for part in content]
    # another one than the mark by which a requester's characters are found
    place = _unused([*chat.texts, place])
    return replace(chat, place=place), sum(isinstance(part, bytes) for part in each)


def _unused(texts: list[str]) -> str:
    found = marker(texts)
    if found is None:
        raise ChatRefusedError("the messages hold every noncharacter of Unicode")
    return found


def rendered_parts(
    render: Callable[[Conversation], str],
    chat: Conversation,
    image: str,
    *,
    takes_text: bool = False,
) -> str:
    """Return the rendered text, with the conversation's place for each picture.

    Args:
        render: renders a conversation by the template.
        image: what the template writes for a picture. In a message's text, it stays text.
        takes_text: a message without pictures goes in as its text.
    """

    def parted(given: Conversation) -> str:
        return render(
            replace(
                given,
                messages=[
                    _as_parts(each)
                    if isinstance(each.get("content"), list) or not takes_text
                    else each
                    for each in given.messages
                ],
            )
        )

    chat = replace(chat, messages=[_merged(message) for message in chat.messages])
    if not chat.place or not image:
        return parted(chat)
    guard = _unused([*chat.texts, chat.place])
    hidden = chat.changed(lambda text: text.replace(image, guard))
    return parted(hidden).replace(image, chat.place).replace(guard, image)


def rendered(template: ChatTemplate, chat: Conversation) -> str:
    """Return what a template makes of a conversation, in parts where it takes them.

    Raises:
        ChatRefusedError: the template refuses the conversation, or exceeds its bounds.
    """
    if template.image is not None:
        return rendered_parts(
            partial(_bounded, template), chat, template.image, takes_text=template.takes_text
        )
    return _bounded(template, chat)


def renderer(template: ChatTemplate) -> Callable[[Sequence[Turn]], str]:
    """Return what renders turns by a template; see `rendered`."""
    return lambda turns: rendered(template, conversation(turns))


def _bounded(template: ChatTemplate, chat: Conversation) -> str:
    try:
        with bounded():
            return template.render(chat.messages, chat.tools, chat.options)
    except TimeoutError as error:
        raise ChatRefusedError(f"the chat template was stopped: {error}") from error
    except MemoryError as error:
        raise ChatRefusedError("the chat template was stopped: it needs much memory") from error


def _shown(render: Callable[[Sequence[Message]], str], content: object) -> str:
    try:
        with bounded():
            return render([{"role": "user", "content": content}])
    except (ChatRefusedError, TimeoutError, MemoryError):
        return ""


def _merged(message: Message) -> Message:
    """Return the message with texts that follow each other as one, so that none is cut in two."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    found: list[str | bytes] = []
    for part in content:
        if found and isinstance(part, str) and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return {**message, "content": found}


def _as_parts(message: Message) -> dict[str, Any]:
    content = message.get("content")
    each = content if isinstance(content, list) else [content or ""]
    if not content and message.get("tool_calls"):
        each = []
    parts = [{"type": "text", "text": e} if isinstance(e, str) else _IMAGE for e in each]
    return {**message, "content": parts}
