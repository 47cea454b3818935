"""What a line of the user means: a message, or one of the commands. Pure.

A text may have several lines: one that ends with a backslash goes on in the next line, and so does
one that has opened `\"\"\"`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from edgekit.errors import UsageError

FENCE = '"""'


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """What stands in the help.

    Attributes:
        takes: what stands behind it, for people; in brackets where it may be absent.
        does: in a few words.
    """

    takes: str
    does: str


COMMANDS = {
    "/help": SlashCommand("", "show this list"),
    "/new": SlashCommand("", "forget the conversation; the system message stays"),
    "/system": SlashCommand("[TEXT|none]", "show, set or remove the system message"),
    "/device": SlashCommand("[NAME]", "show the devices; go on with another one, or pool:NAME"),
    "/model": SlashCommand("[NAME]", "show the models; go on with a device that has another one"),
    "/image": SlashCommand("FILE", "show a picture with the next message"),
    "/drop": SlashCommand("[N]", "forget the oldest N questions, half of them without N"),
    "/retry": SlashCommand("", "send the message again that got no answer"),
    "/save": SlashCommand("FILE", "write the conversation as FILE.json, or as FILE.md to read"),
    "/load": SlashCommand("FILE", "go on with a conversation that `/save` wrote as JSON"),
    "/quit": SlashCommand("", "end, as Ctrl-D does"),
}


@dataclass(frozen=True, slots=True)
class UserText:
    """A message to send; a command where `command` is set, and what stands behind it."""

    text: str
    command: str = ""


def parse(text: str) -> UserText:
    """Read a text of the user.

    Raises:
        UsageError: it is none of the commands, or lacks what the command takes.
    """
    word, _, rest = text.partition(" ")
    if not text.startswith("/"):
        return UserText(without_fences(text))
    if word not in COMMANDS:
        close = difflib.get_close_matches(word, COMMANDS, 1)
        raise UsageError(
            f"there is no {word}",
            f"did you mean {close[0]}?" if close else "",
            "/help shows what there is; a message that begins with / has a space before it",
        )
    takes, rest = COMMANDS[word].takes, without_fences(rest.strip()).strip()
    if takes and not takes.startswith("[") and not rest:
        raise UsageError(f"{word} takes {takes}", next_step="/help shows what each command takes")
    if rest and not takes:
        raise UsageError(
            f"{word} takes nothing",
            f"{rest!r} stands behind it",
            next_step="leave that out; /help shows what each command takes",
        )
    return UserText(rest, word)


def goes_on(text: str) -> bool:
    """Whether the next line belongs to this text, too."""
    return text.count(FENCE) % 2 == 1 or text.endswith("\\")


def joined(text: str, line: str) -> str:
    """A text that goes on, with its next line."""
    fenced = text.count(FENCE) % 2 == 1
    return f"{text if fenced else text.removesuffix(chr(92))}\n{line}"


def without_fences(text: str) -> str:
    """A text in `\"\"\"` without them; any other as it is."""
    inner = text.strip()
    if len(inner) >= 2 * len(FENCE) and inner.startswith(FENCE) and inner.endswith(FENCE):
        return inner[len(FENCE) : -len(FENCE)].strip("\n")
    return text


def count_of(text: str, default: int) -> int:
    """The number behind `/drop`.

    Raises:
        UsageError: it is none.
    """
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not int(text[:9]):
        raise UsageError(f"{text!r} is no number of questions", next_step="/drop 2")
    return int(text[:9])


def help_lines() -> list[str]:
    """The commands for people."""
    width = max(len(f"{name} {each.takes}") for name, each in COMMANDS.items())
    lines = [f"{f'{name} {each.takes}':<{width}}  {each.does}" for name, each in COMMANDS.items()]
    return [
        *lines,
        "",
        'Alt-Enter, a backslash at the end, or """ around it make a message of several lines.',
        "Ctrl-C cancels an answer. Ctrl-D ends.",
    ]
