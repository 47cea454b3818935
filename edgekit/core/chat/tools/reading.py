"""Finds the tool calls in what a model writes, while it writes. Pure.

Text before and between calls stays text. What looks like a call and is none (no object, no known
tool) stays text, too, as long as nothing of it was told. A name is told as soon as it is whole, and
arguments as they come.

A call that was told ends with its closing tag, also where its arguments are not whole; what is
between the place where it broke and that tag goes. A closing tag inside a string may be a part of
the string: what follows it is held until the call is whole, or shows that the tag was its end.

Where the answer may be JSON of a schema instead of calls, a call stands at the very beginning, and
its name waits for its arguments. A format without a tag makes JSON of both: then a call is told
once it is whole, and only if it is written exactly as the grammar of calls has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgekit.core.chat.calls import FunctionDelta, ToolCallDelta
from edgekit.core.chat.tools.formats import Calling, format_of, written
from edgekit.core.chat.tools.scan import GemmaCall, NamedCall, ObjectCall, Scan

_FILLING = "[],;"  # may stand between calls
MAX_REST = 256  # characters of a broken call before its closing tag; more are text
# What JSON has outside of its strings; the letters are those of true, false, null and exponents
_OUTSIDE = frozenset('{}[],:" \t\r\n0123456789+-.eEtruefalsn')
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
        self._heads = self._heads_of(calling) if self._bare and calling.bound else ()
        self._least = min(map(len, self._heads), default=0)
        self._exact = calling.json and bool(self._heads)
        self._closes = () if calling.bound else self._format.closes  # bound calls are whole
        self._skipped = sorted((*self._opens, *self._format.closes), key=len, reverse=True)
        self._buffer = ""
        self._raw = ""  # since the tag that opened a call; text again if it was none
        self._call: Scan | None = None
        self._told = False  # the call's name was
        self._sure = ""  # arguments that are to be told
        self._tail = ""  # the call's last characters, which may become a closing tag
        self._doubt = ""  # since a closing tag in a string of the call
        self._unclosed = False  # no closing tag stood behind the last call
        self._broke = False  # the last call ended before it was whole
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
        while self._call is not None and not self.ended and (self._doubt or not self._told):
            if self._told:
                self._buffer = self._doubt + self._buffer
                self._end_call(whole=False)
            else:
                self._give_back()
            while not self.ended and self._step():
                pass
        if not self.ended:
            if self._call is not None:
                self._tell(self._call.take() if self._call.in_string else "")
            elif not (self._inside and self._count):
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
            if not start or (len(start) < self._least and self._may_begin(start)):
                return False
            if start[0] == "{" and self._may_begin(start):
                self._open(len(buffer) - len(start))
                return True
        if not (self._free or (self._blank and self._may_open(start))):
            self._say(buffer)
            self._buffer = ""
            return False
        tags = (*self._opens, *(self._format.closes if self._unclosed else ()))
        found = min(((at, tag) for tag in tags if (at := buffer.find(tag)) >= 0), default=None)
        if found is not None:
            at, tag = found
            if tag in self._opens:
                if not self._blank or buffer[:at].strip():
                    self._say(buffer[:at])
                    self._buffer, at = buffer[at:], 0
                self._open(at + len(tag))  # white space before a call is none of the answer's
            else:  # what it closes was told, or is the rest of a call that broke
                self._say("" if self._broke and at <= MAX_REST else buffer[:at])
                self._buffer = buffer[at + len(tag) :]
                self._unclosed = self._broke = False
            return True
        held = max((_overlap(buffer, tag) for tag in tags), default=0)
        if self._broke and self._unclosed and len(buffer) - held <= MAX_REST:
            return False
        self._broke = False
        if self._blank and not start[: len(start) - held].strip():
            return False  # white space alone: perhaps a call follows
        self._say(buffer[: len(buffer) - held])
        self._buffer = buffer[len(buffer) - held :]
        return False

    def _heads_of(self, calling: Calling) -> tuple[str, ...]:
        """Return what bound calls of a format without a tag begin with."""
        form = self._format
        return tuple(form.begin + name + form.middle for name in calling.tools)

    def _may_begin(self, start: str) -> bool:
        """Whether a text that begins so may be a call of a format without a tag."""
        heads = self._heads
        return not heads or any(start.startswith(h) or h.startswith(start) for h in heads)

    def _may_open(self, start: str) -> bool:
        """Whether a text begins with a tag that opens calls, or may do so once it is longer."""
        return any(start.startswith(tag) or tag.startswith(start) for tag in self._opens)

    def _open(self, size: int) -> None:
        self._raw, self._buffer = self._buffer[:size], self._buffer[size:]
        self._inside, self._unclosed, self._broke = True, False, False

    def _say(self, text: str) -> None:
        if self._blank and not text.strip() and self._count:
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
                opened = any(each in self._raw for each in self._opens)
                self._take(len(buffer) - len(start) + len(tag))
                if tag in self._format.closes and self._count:
                    self._inside, self._raw = False, ""
                    self._unclosed = self._broke = False
                elif tag in self._opens:
                    self._raw = self._raw if opened else tag  # not what follows a list of calls
                    self._unclosed = self._broke = False
                return True
        if any(tag.startswith(start) for tag in self._skipped):
            return False  # a tag that is not whole yet
        if start[0] in _FILLING or (start[0] == "}" and self._count):
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
        at, told, left = 0, self._told, ""
        for at, character in enumerate(self._buffer, 1):  # noqa: B007  used after the loop
            left = self._feed(call, character)
            if left or call.done or self._unknown(call):
                break
            self._told = self._told or self._is_certain(call)
        if not told:
            self._raw += self._buffer[:at]
        self._buffer = self._buffer[at:]
        if self._exact and call.done and not self._unknown(call):
            self._take_exact(call)
        if not self._told and (self._unknown(call) or left or call.done):
            self._give_back()
            return True
        if self._told and (call.done or not (self._tail or self._doubt)):
            self._sure += call.take()
        if self._told and not told:
            function = FunctionDelta(call.name, self._sure)
            self._deltas.append(ToolCallDelta(self._count, function, self._new_id(), "function"))
            self._sure = ""
        self._tell("")
        if not call.done and not left:
            return False
        self._buffer = left + self._buffer
        self._end_call(whole=call.done)
        return True

    def _feed(self, call: Scan, character: str) -> str:
        """Add a character to a call; where that ends it too early, return what follows the call."""
        if not (self._told and self._closes):
            call.feed(character)
            return character if call.broken else ""
        if self._doubt:
            self._doubt += character
            call.feed(character)
            json = self._format.syntax != "gemma"
            wrong = json and not call.in_string and character not in _OUTSIDE
            return self._doubt if call.broken or wrong else ""
        tails = (self._tail + character, character)
        tail = next((t for t in tails if any(tag.startswith(t) for tag in self._closes)), "")
        if len(tail) < 2:  # all that came before it is the call's
            self._sure += call.take()
        call.feed(character)
        self._tail = tail
        if call.broken:
            return tail or character
        if tail not in self._closes:
            return ""
        if not call.in_string:
            return tail
        self._doubt, self._tail = tail, ""
        return ""

    def _is_certain(self, call: Scan) -> bool:
        """Whether what is read is a call, though it is not whole yet."""
        return bool(call.name) and not self._exact and (self._free or call.begun)

    def _take_exact(self, call: Scan) -> None:
        """Take a whole call as one if it is written as the grammar of calls has it."""
        arguments = call.take()
        if self._raw == written(self._format, [(call.name, arguments)]):
            self._told, self._sure = True, arguments

    def _tell(self, arguments: str) -> None:
        """Tell the arguments that are certain, and these."""
        if more := self._sure + arguments:
            self._deltas.append(ToolCallDelta(self._count, FunctionDelta(arguments=more)))
        self._sure = ""

    def _end_call(self, *, whole: bool) -> None:
        self._call, self._raw, self._blank = None, "", True
        self._tail = self._doubt = ""
        self._unclosed, self._broke = bool(self._format.closes), not whole
        self._count += 1
        self.ended = self._single or not self._format.many

    def _unknown(self, call: Scan) -> bool:
        """Whether a call that was not told names no tool."""
        return not self._told and bool(call.name) and call.name not in self._tools

    def _give_back(self) -> None:
        """Say that what was taken for a call is text."""
        self._call = None
        self._inside = False
        if self._unclosed:  # the closing tag of the call before may be in it
            self._raw, self._buffer = "", self._raw + self._buffer
        else:
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
