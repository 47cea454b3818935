"""Decides which added tokens are *control tokens*: those that a message's text must never become.

They are the tokenizer's special tokens, the named ones (`bos_token` and so on), and added tokens
that the template writes, or that the model's maker lists (`chat_control_tokens`). Not among them
are words, runs of white space (templates write "\\n" as text) and tags such as `</think>` that the
template itself looks for in an assistant's message: Hugging Face gives these their ids wherever
they stand, and earlier answers hold them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator

from edgekit.tokens.template import ChatRefusedError, ChatTemplate, Message

_TAG = re.compile(r"[<\[◁](/?)[\w-]+[>\]▷]")
_STAND_IN = "\ufdd0"  # a noncharacter: no template looks for it
_CALL = {"id": "A", "type": "function", "function": {"name": "A", "arguments": {"A": "A"}}}
Render = Callable[[list[Message]], str]


def control_tokens(
    special: Iterable[str],
    other: Iterable[str],
    template: ChatTemplate,
    render: Render,
    listed: Collection[str] = (),
) -> frozenset[str]:
    """Return the texts of the control tokens.

    Args:
        special: the special and the named tokens.
        other: the other added tokens.
        template: the model's chat template.
        render: renders it within bounds.
        listed: those that the model's maker lists.
    """
    seen = _written(template, render)
    written = {text for text in other if _has_a_sign(text) and any(text in each for each in seen)}
    written |= set(other) & set(listed)
    return frozenset(special) | (written - read_tags(written, render))


def _has_a_sign(text: str) -> bool:
    """Whether a token has more than letters, digits and white space.

    A word that was added to the vocabulary is a word in messages, too, also if a template has it.
    """
    return any(unicodedata.category(each)[0] not in "LMNZ" and not each.isspace() for each in text)


def _written(template: ChatTemplate, render: Render) -> list[str]:
    """Return the texts that the template writes, also those that it joins (`'<|' + role`)."""
    system: Message = {"role": "system", "content": "A"}
    user: Message = {"role": "user", "content": "A"}
    answer: Message = {"role": "assistant", "content": "A"}
    result: Message = {"role": "tool", "content": "A", "name": "A", "tool_call_id": "A"}
    turns = (
        *([system, user], [user], [user, answer, user], [system, user, answer, user]),
        *([user, answer, result], [user, {**answer, "tool_calls": [_CALL]}, result]),
    )
    rendered = (_rendered(render, each) for each in turns)
    texts = [*template.constants, *template.written]
    return texts + [each for each in rendered if each is not None]


def read_tags(tokens: Collection[str], render: Render) -> frozenset[str]:
    """Return the tags among these tokens that the template looks for in an assistant's message.

    A tag counts if a template renders an assistant's message otherwise once something else stands
    in the tag's place, and a user's message not. Both tags of a pair count if one does.
    """
    found = set()
    for token in tokens:
        tag = _TAG.fullmatch(token)
        if tag is None:
            continue
        other = token[0] + token[2:] if tag[1] else f"{token[0]}/{token[1:]}"
        pair = (token, other) if not tag[1] else (other, token)
        if _reads(pair, token, "assistant", render) and not _reads(pair, token, "user", render):
            found |= {token, other}
    return frozenset(found) & frozenset(tokens)


def _reads(pair: tuple[str, str], token: str, role: str, render: Render) -> bool:
    """Whether the template treats the token in a message of this role as more than text."""
    stand_in = _STAND_IN * len(token)
    for content in (f"x{token}y", token, "{}x{}y".format(*pair), "{}x{}".format(*pair)):
        for turns in _around(role):
            shown = _rendered(render, [*turns[0], {"role": role, "content": content}, *turns[1]])
            hidden = content.replace(token, stand_in)
            masked = _rendered(render, [*turns[0], {"role": role, "content": hidden}, *turns[1]])
            if shown != (masked and masked.replace(stand_in, token)):
                return True
    return False


def _around(role: str) -> Iterator[tuple[list[Message], list[Message]]]:
    user: Message = {"role": "user", "content": "A"}
    if role == "user":
        yield [], []
        yield [], [{"role": "assistant", "content": "A"}, user]
    else:
        yield [user], []
        yield [user], [user]


def _rendered(render: Render, turns: list[Message]) -> str | None:
    try:
        return render(turns)
    except (ChatRefusedError, TimeoutError, MemoryError):
        return None
