"""Reads what the user writes: with a history and several lines on a terminal, plain elsewhere.

The only file that knows prompt_toolkit; it is imported for a terminal alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekit.cli import render
from edgekit.cli.talk.chat.commands import COMMANDS, goes_on, joined
from edgekit.data import state_root
from edgekit.errors import UsageError
from edgekit.store import publish

MAX_HISTORY_BYTES = 1 << 20
KEPT_HISTORY_BYTES = 1 << 19

FILES = ("/save", "/load", "/image")


def is_terminal() -> bool:
    """Whether a person can write here and read the answers."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def piped() -> Iterator[str]:
    """The texts on standard input, one a line; a line that goes on takes the next one too.

    Raises:
        UsageError: it is closed, or no text in UTF-8.
    """
    if sys.stdin is None:
        raise UsageError("standard input is closed", next_step="pipe prompts, one a line")
    text, before = "", False
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            read = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"line {number} of standard input is not UTF-8 text",
                f"byte 0x{line[error.start]:02x} at {error.start}: {error.reason}",
                "convert it, as with `iconv -f LATIN1 -t UTF-8`",
            ) from None
        text = joined(text, read) if before else read
        before = goes_on(text)
        if not before and text.strip():
            yield text
    if before:
        raise UsageError(
            "the last message on standard input does not end",
            'it ends with a backslash, or opens """ and does not close it',
            next_step="end it with a line of its own",
        )


def typed(
    partner: Callable[[], str], names: Callable[[], list[str]], *, keep: bool
) -> Iterator[str]:
    """The texts that a person types. Ctrl-C clears a line, Ctrl-D ends.

    Args:
        partner: whom the next one goes to, for the prompt.
        names: of devices, pools and models, for completion.
        keep: whether what is typed stays in the history file.
    """
    from prompt_toolkit import PromptSession  # noqa: PLC0415  for a terminal alone
    from prompt_toolkit.completion import (  # noqa: PLC0415  likewise
        CompleteEvent,
        Completer,
        Completion,
        PathCompleter,
        WordCompleter,
    )
    from prompt_toolkit.document import Document  # noqa: PLC0415  likewise
    from prompt_toolkit.history import FileHistory, InMemoryHistory  # noqa: PLC0415  likewise
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent  # noqa: PLC0415  likewise

    words = [f"{name} " if each.takes else name for name, each in COMMANDS.items()]

    class CommandCompleter(Completer):
        """Commands, and what stands behind one."""

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
            word, space, rest = document.text_before_cursor.partition(" ")
            if not word.startswith("/"):
                return
            inner: Completer = WordCompleter(words, sentence=True)
            if space:
                document = Document(rest)
                inner = PathCompleter(expanduser=True)
                if word not in FILES:
                    inner = WordCompleter(names(), sentence=True)
            yield from inner.get_completions(document, event)

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.apply_completion(buffer.complete_state.current_completion)
        elif goes_on(buffer.text):
            if buffer.text.endswith("\\"):
                buffer.cursor_position = len(buffer.text)
                buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    file = history_file() if keep else None
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(file)) if file else InMemoryHistory(),
        completer=CommandCompleter(),
        complete_while_typing=False,
        key_bindings=keys,
        multiline=True,
        prompt_continuation=lambda width, number, wrapped: "." * max(width - 1, 0) + " ",
    )
    while True:
        try:
            text = session.prompt(f"{render.harmless(partner())}> ")
        except KeyboardInterrupt:
            render.err.print("Ctrl-D ends", style="dim")
            continue
        except EOFError:
            return
        if text.strip():
            yield text


def history_file() -> Path | None:
    """The file of what was typed, for its owner alone; None where there can be none."""
    path = state_root() / "chat-history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size > MAX_HISTORY_BYTES:
            publish(path, newest(path.read_bytes(), KEPT_HISTORY_BYTES), 0o600)
    except OSError as error:
        render.warn(f"what you type is not kept: {path}: {error.strerror or error}")
        return None
    return path


def newest(history: bytes, most: int) -> bytes:
    """The last whole entries of a history, together at most so many bytes. Pure."""
    entry = history.find(b"\n# ", max(len(history) - most, 0))
    return history[entry:] if entry >= 0 else b""
