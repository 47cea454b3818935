"""What parent and model worker say to each other: length-prefixed msgpack over a socketpair.

A descriptor of its own, because native libraries print on stdout. Frames are a 4-byte big-endian
length and one tagged msgpack map. The first frame to the worker is its `WorkerSettings`. The worker
answers with `Ready` once the model is loaded. Neither side imports the other: what both must know
stands here.
"""

from __future__ import annotations

import select
import socket
import struct
from typing import Any, Generic, TypeVar

import msgspec

from edgekit.core.chat import Sampling, Timings, Usage
from edgekit.core.wire import MAX_EXPIRY_SECONDS, UNREADABLE
from edgekit.errors import EdgekitError

MAX_FRAME_BYTES = 16 << 20
SLICE_TOKENS = 64  # of a prefill: the longest stretch in which a worker sees no cancel
HEARTBEAT_SECONDS = 1.0  # a worker that has nothing else to say
SLOWEST_TOKENS_PER_SECOND = 4.0  # of a prefill, or of one beam: below it a device is of no use
_HEADER = struct.Struct(">I")


def quiet_seconds(tokens: int) -> float:
    """For how long one computation of so many tokens may take a worker that is well."""
    return min(tokens / SLOWEST_TOKENS_PER_SECOND, MAX_EXPIRY_SECONDS)


class WorkerSettings(msgspec.Struct, frozen=True, tag="settings", forbid_unknown_fields=True):
    """What a worker is told before anything else, once.

    Attributes:
        model: path of the model's folder.
        release: digest of the release that it is of.
        max_length: tokens of a slot, where the memory holds one of so many.
        threads: of the runtime; 0 takes what is fastest on this device.
        slots: prompts side by side; 0 takes what the memory allows.
        batching: decode all slots in one step, where the graph allows it.
        max_beams: of a beam search; 1 refuses it.
        logits_processors: custom scoring, as in agent.toml; empty for none.
        tuning: path of the file in which measured settings of the runtime are kept.
        tune_seconds: how long to measure them at most.
    """

    model: str
    release: str
    max_length: int
    threads: int
    slots: int
    batching: bool
    max_beams: int
    logits_processors: str
    tuning: str
    tune_seconds: float


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Run one prompt; prefixes are kept per `requester`.

    `messages` are (role, content) pairs; `deadline` is monotonic, in seconds; a prompt of more than
    `prompt_limit` tokens is refused, 0 is no limit but the context's.
    """

    key: str
    requester: str
    messages: list[tuple[str, str]]
    sampling: Sampling
    stops: list[str]
    answer_limit: int
    deadline: float
    prompt_limit: int = 0


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop a prompt: within one prefill slice or one token."""

    key: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded and has produced a token; times in milliseconds.

    `slots` is how many prompts the worker runs side by side.
    """

    load_ms: float
    warm_up_ms: float
    slots: int = 1  # prompts that the worker runs side by side
    threads: int = 0  # of the runtime
    spinning: bool = False  # whether they wait busily
    tuned: bool = False  # whether that was measured on this device
    max_beams: int = 1  # that a prompt may ask for
    context_length: int = 0  # tokens of a slot; 0: the bundle's

    @property
    def served(self) -> tuple[int, int, int]:
        """What the memory decided, and the card says."""
        return self.slots, self.max_beams, self.context_length


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The worker gets on, with nothing else to say; before one long computation it tells for how
    many seconds more than usual it may be silent."""

    quiet_seconds: float = 0.0


class Generated(msgspec.Struct, frozen=True, tag="delta"):
    """A piece of the answer, safe to show: whole characters, no part of a stop string."""

    key: str
    text: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The whole answer. `finish_reason`: stop, length, cancelled or deadline."""

    key: str
    text: str
    finish_reason: str
    usage: Usage
    timings: Timings


class Refused(msgspec.Struct, frozen=True, tag="failed"):
    """The prompt cannot be answered; `code` is one of the protocol's, `param` the field's name."""

    key: str
    code: str
    message: str
    param: str = ""


ToWorker = Start | Cancel  # after the settings
FromWorker = Ready | Heartbeat | Generated | Done | Refused
Message = WorkerSettings | ToWorker | FromWorker
T = TypeVar("T")


class PipeClosedError(EdgekitError):
    """The other process is gone, or talks nonsense, which ends the conversation too."""


class Pipe(Generic[T]):
    """One end of the socketpair; `receives` is the union of messages it reads."""

    def __init__(self, sock: socket.socket, receives: Any) -> None:
        self.sock = sock
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(receives)
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray()
        self._unsent = bytearray()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def then(self, receives: Any) -> Pipe[Any]:
        """This end for what follows: messages of another union; the old one is of no use then."""
        other: Pipe[Any] = Pipe(self.sock, receives)
        other._buffer, other._unsent = self._buffer, self._unsent
        return other

    def readable(self) -> bool:
        """Whether there is something to receive, or the other end is gone."""
        return bool(self._buffer or self._poll.poll(0))

    def send(self, message: Message) -> None:
        """Write one frame.

        Raises:
            PipeClosedError: nobody reads.
        """
        try:
            self.sock.sendall(self._frame(message))
        except OSError as error:
            raise PipeClosedError("the pipe is closed", str(error)) from error

    def offer(self, message: Message) -> None:
        """Write one frame as far as it goes at once; `flush` goes on.

        Raises:
            PipeClosedError: nobody reads.
        """
        self._unsent += self._frame(message)
        self.flush()

    @property
    def unsent(self) -> bool:
        """Whether the other end has not taken all that was offered."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Write what is unsent as far as it goes at once.

        Raises:
            PipeClosedError: nobody reads.
        """
        try:
            while self._unsent:
                del self._unsent[: self.sock.send(self._unsent, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return
        except OSError as error:
            raise PipeClosedError("the pipe is closed", str(error)) from error

    def receive(self, wait: bool = True) -> T | None:
        """The next message; None when `wait` is false and there is no whole one yet.

        Raises:
            PipeClosedError: the other end is gone, or sent what is no frame of ours.
        """
        while True:
            if len(self._buffer) >= _HEADER.size:
                (size,) = _HEADER.unpack_from(self._buffer)
                if size > MAX_FRAME_BYTES:
                    raise PipeClosedError("a frame between agent and worker is too large")
                end = _HEADER.size + size
                if len(self._buffer) >= end:
                    body = bytes(self._buffer[_HEADER.size : end])
                    del self._buffer[:end]
                    return self._decode(body)
            try:
                chunk = self.sock.recv(1 << 16, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except OSError as error:
                raise PipeClosedError("the pipe is closed", str(error)) from error
            if not chunk:
                raise PipeClosedError("the pipe is closed")
            self._buffer += chunk

    def _frame(self, message: Message) -> bytes:
        body = self._encoder.encode(message)
        return _HEADER.pack(len(body)) + body

    def _decode(self, body: bytes) -> T:
        try:
            return self._decoder.decode(body)
        except UNREADABLE as error:
            raise PipeClosedError("a frame cannot be read", str(error)) from error
