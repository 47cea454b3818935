"""Keeps compiled grammars, and compiles new ones on a thread beside the decoding.

llguidance computes without Python's lock, so running answers go on meanwhile. Only the model's
token table, which is made at the first grammar, is made with the lock held.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from socket import socket
from typing import Protocol

from edgekit.agent.serve.worker.admission import RefusedError
from edgekit.agent.serve.worker.grammar.guide import GrammarError, Guide
from edgekit.core.chat.constraint.constraint import Constraint

log = logging.getLogger(__name__)

KEPT = 32  # compiled grammars
# Of the thread that compiles. llguidance follows rules and references by recursion, and where the
# stack ends the process does: with 8 MiB between 2000 and 3000 rules in a row.
STACK_BYTES = 64 << 20
COMPILE_SECONDS = 10.0  # then the prompt is refused; the library's limits end it far earlier
MAX_STUCK = 2  # compilations over their time that another thread takes the place of


class NoCompilerError(GrammarError):
    """This device cannot compile grammars now; `code` is a protocol error code."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


class Grammar(Protocol):
    """A compiled grammar."""

    def copy(self) -> Guide:
        """Return a guide at the beginning of an answer."""
        ...


class Compiler(Protocol):
    """Compiles grammars for one model; `compiler.TokenCompiler` is the real one."""

    def compile(self, constraint: Constraint) -> Grammar:
        """Compile; raises GrammarError."""
        ...


@dataclass(slots=True)
class _Entry:
    constraint: Constraint
    future: Future[Grammar] = field(default_factory=Future)
    begun: float = inf  # others may be compiled before it


def _nothing() -> Compiler:
    raise NoCompilerError("unsupported_parameter", "this device compiles no grammars")


class Grammars:
    """Compiled grammars by digest.

    Args:
        open_compiler: makes the compiler at the first grammar; it may raise NoCompilerError.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        open_compiler: Callable[[], Compiler] = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = open_compiler
        self._clock = clock
        self._compiler: Compiler | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._running: _Entry | None = None  # the one that was begun last
        self._stuck = 0  # threads that were given up, with what they compile
        self._woken = -1  # an eventfd: a compilation has ended

    def begin(self, constraint: Constraint | None) -> None:
        """Begin to compile what is not compiled yet."""
        if constraint is None:
            return
        key = _digest(constraint)
        if key in self._entries:
            self._entries.move_to_end(key)
            return
        self._entries[key] = entry = _Entry(constraint)
        self._submit(entry)
        if len(self._entries) > KEPT:
            self._entries.popitem(last=False)[1].future.cancel()

    def _submit(self, entry: _Entry) -> None:
        if self._stuck > MAX_STUCK:
            text = f"{self._stuck} compilations of grammars have not ended, so no other is begun"
            entry.future.set_exception(NoCompilerError("internal", text))
            return
        if self._thread is None:
            self._thread = _thread()
        if self._woken < 0:
            self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        entry.future = self._thread.submit(self._compile, entry)
        entry.future.add_done_callback(lambda _: os.eventfd_write(self._woken, 1))

    def _leave_stuck(self) -> None:
        """Give up the thread whose compilation is over its time: the others go to a new one."""
        running = self._running
        if running is None or running.future.done() or not self._is_late(running):
            return
        assert self._thread is not None
        self._stuck += 1
        log.warning("a grammar was not compiled within %.0f s", COMPILE_SECONDS)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._thread, self._running = None, None
        for entry in self._entries.values():
            if entry.future.cancelled():
                entry.future = Future()
                self._submit(entry)

    def _is_late(self, entry: _Entry) -> bool:
        return self._clock() >= entry.begun + COMPILE_SECONDS

    def compiles(self, constraint: Constraint | None) -> bool:
        """Whether a prompt with this constraint has to wait."""
        if constraint is None:
            return False
        self._leave_stuck()
        entry = self._entries.get(_digest(constraint))
        if entry is None:  # newer ones have displaced it
            self.begin(constraint)
            return True
        return not entry.future.done() and not self._is_late(entry)

    def guide(self, constraint: Constraint | None) -> Guide | None:
        """Return a guide for one answer; None where any text will do.

        Raises:
            RefusedError: the grammar cannot be compiled.
        """
        if constraint is None:
            return None
        try:
            return self._guide(constraint)
        except NoCompilerError as error:
            raise RefusedError(error.code, str(error), constraint.param) from error
        except GrammarError as error:
            raise RefusedError("invalid_request", str(error), constraint.param) from error

    def _guide(self, constraint: Constraint) -> Guide:
        entry = self._entries.get(_digest(constraint))
        if entry is None or not entry.future.done():
            raise GrammarError(f"it was not compiled within {COMPILE_SECONDS:.0f} s")
        error = entry.future.exception()
        if isinstance(error, NoCompilerError):  # of the moment: the next prompt tries again
            del self._entries[_digest(constraint)]
        if isinstance(error, GrammarError):
            raise error
        if error is not None:  # a panic of the library is one of Python's base exceptions
            raise GrammarError(f"the compiler failed: {error}") from error
        return entry.future.result().copy()

    def wait(self, pipe: socket, seconds: float) -> None:
        """Sleep until a compilation has ended or the pipe has something to read."""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        if self._woken >= 0:
            poll.register(self._woken, select.POLLIN)
        if any(descriptor == self._woken for descriptor, _ in poll.poll(seconds * 1e3)):
            os.eventfd_read(self._woken)

    def _compile(self, entry: _Entry) -> Grammar:
        if self._compiler is None:
            before, began = _resident_mb(), time.monotonic()
            self._compiler = self._open()
            log.info(
                "the first grammar: the token table took %.2f s and %.0f MB",
                *(time.monotonic() - began, _resident_mb() - before),
            )
        entry.begun = self._clock()  # the table's time, seconds with a large vocabulary, is none's
        self._running = entry
        return self._compiler.compile(entry.constraint)


def _thread() -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(1, "grammar")
    before = threading.stack_size(STACK_BYTES)
    try:
        pool.submit(int)  # begins the thread
    finally:
        threading.stack_size(before)
    return pool


def _digest(constraint: Constraint) -> bytes:
    text = f"{constraint.kind}\0{constraint.trusted:d}\0{constraint.source}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6
