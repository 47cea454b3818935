"""Finds the tool calls in what a model writes, while it writes. Pure.

Text before and between calls stays text. What looks like a call and is none (no object, no known
tool) stays text, too, as long as nothing of it was told. A name is told as soon as it is whole, and
arguments as they come. Where the answer may be JSON of a schema instead of calls, a call stands at
the very beginning, and its name waits for its arguments: the JSON may have a field `name`, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgekit.core.chat.calls import FunctionDelta, ToolCallDelta
from edgekit.core.chat.tools.formats import Calling, format_of
from edgekit.core.chat.tools.scan import GemmaCall, NamedCall, ObjectCall, Scan

_FILLING = "[],;"  # may stand between calls
Found = tuple[str, list[ToolCallDelta]]


class CallReader:
    """Reads the calls of one answer.

    Args:
        calling: the format, and what may be called.
        new_id: makes the id of a call.

    Attributes:
        ended: whether nothing that follows belongs to the answer.
    """

    def __init__(self, calling: Calling, new_id: Callable[[], str]) -> None:
        self._format = format_of(calling.format)
        self._tools = frozenset(calling.tools)
        self._single = calling.single
        self._free = calling.free
        self._new_id = new_id
        opens = (self._format.tag,) if calling.bound else self._format.opens
        self._opens = tuple(tag for tag in opens if tag)
        self._bare = "" in opens  # an answer that begins with an object is a call
        self._skipped = sorted((*self._opens, *self._format.closes), key=len, reverse=True)
        self._buffer = ""
        self._raw = ""  # since the tag that opened a call; text again if it was none
        self._call: Scan | None = None
        self._told = False  # the call's name was
        self._inside = False  # behind a tag that opens calls
        self._blank = True  # nothing but white space was text since the beginning or the last call
        self._count = 0
        self._text: list[str] = []
        self._deltas: list[ToolCallDelta] = []
        self.ended = False

    def push(self, text: str) -> Found:
        """Add text; return the text and the pieces of calls that are certain by now."""
        self._buffer += text
        while not self.ended and self._step():
            pass
        return self._taken()

    def flush(self) -> Found:
        """Return what is still held, once the model has ended."""
        if not self.ended:
            if self._call is not None and not self._told:
                self._give_back()
            elif self._call is None and not (self._inside and self._count):
                self._say(self._raw + self._buffer)
        self._buffer = self._raw = ""
        return self._taken()

    def _taken(self) -> Found:
        found = "".join(self._text), self._deltas
        self._text, self._deltas = [], []
        return found

    def _step(self) -> bool:
        """Take the next part of the buffer; return whether there may be more to take."""
        if not self._buffer:
            return False
        if self._call is not None:
            return self._scan(self._call)
        return self._between() if self._inside else self._outside()

    # --- outside of calls ---------------------------------------------------------------------
    def _outside(self) -> bool:
        buffer = self._buffer
        start = buffer.lstrip()
        if self._bare and self._blank and not self._count:
            if not start:
                return False
            if start[0] == "{":
                self._open(len(buffer) - len(start))
                return True
        if not (self._free or (self._blank and self._may_open(start))):
            self._say(buffer)
            self._buffer = ""
            return False
        found = min(
            ((at, tag) for tag in self._opens if (at := buffer.find(tag)) >= 0), default=None
        )
        if found is not None:
            at, tag = found
            self._say(buffer[:at], before_call=True)
            self._buffer = buffer[at:]
            self._open(len(tag))
            return True
        held = max((_overlap(buffer, tag) for tag in self._opens), default=0)
        if self._blank and not start[: len(start) - held].strip():
            return False  # white space alone: perhaps a call follows
        self._say(buffer[: len(buffer) - held])
        self._buffer = buffer[len(buffer) - held :]
        return False

    def _may_open(self, start: str) -> bool:
        """Whether a text begins with a tag that opens calls, or may do so once it is longer."""
        return any(start.startswith(tag) or tag.startswith(start) for tag in self._opens)

    def _open(self, size: int) -> None:
        self._raw, self._buffer = self._buffer[:size], self._buffer[size:]
        self._inside = True

    def _say(self, text: str, before_call: bool = False) -> None:
        if self._blank and not text.strip() and (before_call or self._count):
            return
        if text:
            self._text.append(text)
            self._blank = self._blank and not text.strip()

    # --- between the tags of calls --------------------------------------------------------------
    def _between(self) -> bool:
        buffer = self._buffer
        start = buffer.lstrip()
        if not start:
            return False
        for tag in self._skipped:
            if start.startswith(tag):
                self._take(len(buffer) - len(start) + len(tag))
                if tag in self._format.closes and self._count:
                    self._inside, self._raw = False, ""
                elif tag in self._opens:
                    self._raw = tag
                return True
        if any(tag.startswith(start) for tag in self._skipped):
            return False  # a tag that is not whole yet
        if start[0] in _FILLING:
            self._take(len(buffer) - len(start) + 1)
            return True
        self._take(len(buffer) - len(start))
        call = self._begun(start[0])
        if call is not None:
            self._call, self._told = call, False
            return True
        self._inside = False
        if self._count and not any(tag in self._raw for tag in self._opens):
            self._raw = ""  # brackets behind a list of calls
        else:
            self._text_again()
        return True

    def _take(self, size: int) -> None:
        """Move the beginning of the buffer to what may become text again."""
        self._raw += self._buffer[:size]
        self._buffer = self._buffer[size:]

    def _begun(self, character: str) -> Scan | None:
        """Return what reads a call that begins with this character; None if none does."""
        if character == "{":
            return ObjectCall()
        if self._format.syntax == "gemma" and character == "c":
            return GemmaCall()
        if self._format.syntax != "gemma" and (character.isalnum() or character in "_-"):
            return NamedCall() if "[TOOL_CALLS]" in self._raw else None
        return None

    # --- inside a call --------------------------------------------------------------------------
    def _scan(self, call: Scan) -> bool:
        at = 0
        for at, character in enumerate(self._buffer, 1):  # noqa: B007  used after the loop
            call.feed(character)
            if call.done or call.broken or self._unknown(call):
                break
        if not self._told:
            self._raw += self._buffer[:at]
        broke, self._buffer = self._buffer[at - 1 : at], self._buffer[at:]
        told = self._told
        if self._unknown(call):
            self._give_back()
            return True
        if not told and call.name:
            self._told = self._free or call.begun
        if self._told and not told:
            function = FunctionDelta(call.name, call.take())
            self._deltas.append(ToolCallDelta(self._count, function, self._new_id(), "function"))
        elif told and (more := call.take()):
            self._deltas.append(ToolCallDelta(self._count, FunctionDelta(arguments=more)))
        if not call.done and not call.broken:
            return False
        if not self._told:
            self._give_back()
            return True
        if call.broken:  # what broke it may be a tag behind the call
            self._buffer = broke + self._buffer
        self._call, self._raw, self._blank = None, "", True
        self._count += 1
        self.ended = self._single or not self._format.many
        return True

    def _unknown(self, call: Scan) -> bool:
        """Whether a call that was not told names no tool."""
        return not self._told and bool(call.name) and call.name not in self._tools

    def _give_back(self) -> None:
        """Say that what was taken for a call is text."""
        self._call = None
        self._inside = False
        self._text_again()

    def _text_again(self) -> None:
        self._blank = False
        self._say(self._raw)
        self._raw = ""


def read_all(calling: Calling, text: str) -> Found:
    """Read a whole answer; ids are the calls' numbers."""
    numbers = _numbers()
    reader = CallReader(calling, lambda: str(next(numbers)))
    said, deltas = reader.push(text)
    rest, more = reader.flush()
    return said + rest, [*deltas, *more]


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest suffix of the text that is a proper prefix of the tag."""
    for size in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:size]):
            return size
    return 0
