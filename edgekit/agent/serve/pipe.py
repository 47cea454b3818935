"""The messages between the agent and its worker: length-prefixed msgpack over a socketpair.

The pipe has a descriptor of its own, because native libraries print on stdout. A frame is a 4-byte
big-endian length and one tagged msgpack map. The first frame to the worker is its `WorkerSettings`.
The worker answers with `Ready` once the model is loaded. Neither side imports the other: this
module has the constants that both need.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from edgekit.core.chat.calls import ToolCall, ToolCallDelta
from edgekit.core.chat.completion import Timings, Usage
from edgekit.core.chat.constraint.constraint import Constraint
from edgekit.core.chat.logprobs import TokenLogprob
from edgekit.core.chat.sampling import Sampling
from edgekit.core.chat.tools.formats import Calling
from edgekit.core.golden import GoldenScore
from edgekit.core.protocol.payloads import ImagesTaken
from edgekit.core.protocol.wire import MAX_EXPIRY_SECONDS
from edgekit.core.quality import TopTokens
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError

MAX_FRAME_BYTES = 16 << 20
SLICE_TOKENS = 64  # of a prefill; within one slice the worker sees no cancel
HEARTBEAT_SECONDS = 1.0  # between two heartbeats of a worker that sends nothing else
SLOWEST_TOKENS_PER_SECOND = 4.0  # of a prefill or one beam; a slower device is of no use
_HEADER = struct.Struct(">I")


def quiet_seconds(tokens: int) -> float:
    """Return how many seconds a healthy worker may take to compute `tokens` at once."""
    return min(tokens / SLOWEST_TOKENS_PER_SECOND, MAX_EXPIRY_SECONDS)


class WorkerSettings(msgspec.Struct, frozen=True, tag="settings", forbid_unknown_fields=True):
    """The first frame to a worker, sent once.

    Attributes:
        model: path of the model's folder.
        release: digest of the model's release.
        max_length: tokens of a slot; fewer where the memory is too small.
        threads: of the runtime; 0 takes the fastest number on this device.
        slots: prompts side by side; 0 takes as many as the memory allows.
        batching: decode all slots in one step, where the graph allows that.
        max_beams: of a beam search; 1 refuses beam search.
        logits_processors: the custom logits processors of agent.toml; empty for none.
        tuning: path of the file with the runtime's measured settings.
        tune_seconds: for how long the worker may measure them.
        golden: path of the golden prompts to score before the worker is ready; empty for none.
        golden_seconds: after this time no other golden prompt is begun.
        measure_speed: measure tokens/s where the golden prompts do not.
        image_crops: of one picture; 0 takes what suits the device's memory.
        images_per_prompt: pictures of one prompt; 0 takes the default (`core/pictures`).
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
    golden: str = ""
    golden_seconds: float = 0.0
    measure_speed: bool = False
    image_crops: int = 0
    images_per_prompt: int = 0


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Run one prompt; the worker keeps prefixes per `requester`.

    `messages` are (role, content) pairs, the content as `pictures.Content`: with pictures it is a
    list of texts and encoded pictures. A message with more than these is a mapping, as transformers
    takes it. `deadline` is in monotonic seconds. The worker refuses a prompt of more than
    `prompt_limit` tokens; 0 leaves only the context's limit. With `sample` it says the tokens of a
    prompt that ended well (`EndedPrompt`). `tools` and `options` (further variables) are for the
    chat template. Tool calls in the answer are read as `calling` says; None: they are text. The
    answer matches `constraint`. `top_logprobs` asks for the log-probabilities of the answer's
    tokens, and of so many others in each place; None for none.
    `fill` is a `Fill` in msgpack with which the worker renders a rule's prompt, whose template is
    the user's message; empty for a client's.
    """

    key: str
    requester: str
    # msgspec has no union of str and bytes
    messages: Sequence[tuple[str, str | list[Any]] | dict[str, Any]]
    sampling: Sampling
    stops: list[str]
    answer_limit: int
    deadline: float
    prompt_limit: int = 0
    sample: bool = False
    tools: list[dict[str, Any]] = []
    options: dict[str, Any] = {}
    calling: Calling | None = None
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    fill: bytes = b""


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop a prompt or a walk. The worker does so within one prefill slice or one token."""

    key: str


class Walk(msgspec.Struct, frozen=True, tag="walk"):
    """Walk a sample while nothing else is to be done; `WalkEnded` or `WalkBroken` answers.

    Attributes:
        tokens: a prompt and an answer; `start` is where the answer begins.
        wanted: tokens whose log-probabilities are asked for, at each position of the answer; empty
            asks for the most likely ones.
        answer_limit: the most tokens of the model's own greedy answer to the prompt.
        rest_seconds: for how long a slot with a kept prefix must have rested to be taken for it.
    """

    key: str
    tokens: list[int]
    start: int
    wanted: list[list[int]]
    answer_limit: int
    rest_seconds: float = 0.0


class WalkEnded(msgspec.Struct, frozen=True, tag="walked"):
    """What the model says of a walk's tokens; all lists are empty if it does not fit into a slot.

    Attributes:
        best, tops: the most likely token, and the log-probabilities, at each position.
        answer, answer_tops: the model's own greedy answer, and what was most likely at each token.
    """

    key: str
    best: list[int] = []
    tops: list[TopTokens] = []
    answer: list[int] = []
    answer_tops: list[TopTokens] = []


class WalkBroken(msgspec.Struct, frozen=True, tag="broken"):
    """A walk gave way to a message or found no slot; nothing of it is kept or goes on."""

    key: str


class EndedPrompt(msgspec.Struct, frozen=True, tag="sample"):
    """The tokens of a prompt that ended well, and of its answer from `start` on."""

    tokens: list[int]
    start: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded and has produced a token; times are in milliseconds."""

    load_ms: float
    warm_up_ms: float
    slots: int = 1  # prompts that the worker runs side by side
    threads: int = 0  # of the runtime
    spinning: bool = False  # whether these threads busy-wait
    tuned: bool = False  # whether threads and spinning were measured on this device
    max_beams: int = 1  # the largest beam search that a prompt may ask for
    context_length: int = 0  # tokens of a slot; 0: as in the bundle
    score: GoldenScore | None = None  # of the golden prompts, where they were scored
    images: ImagesTaken | None = None  # of a prompt; None: the model takes no pictures
    capabilities: list[str] = []  # of the model, for the card
    template_options: list[str] = []  # what `chat_template_kwargs` may name, for the card

    @property
    def served(self) -> tuple[int, int, int, ImagesTaken | None]:
        """The limits that depend on the free memory, for the card."""
        return self.slots, self.max_beams, self.context_length, self.images


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The worker makes progress and has no other message to send.

    Before a long computation `quiet_seconds` announces for how much longer than usual the worker
    may be silent.
    """

    quiet_seconds: float = 0.0


class Generated(msgspec.Struct, frozen=True, tag="delta"):
    """A piece of the answer that is safe to show: whole characters, no part of a stop string.

    `logprobs` are of the tokens since the last piece, where they are asked for.
    """

    key: str
    text: str
    reasoning: str = ""
    calls: Sequence[ToolCallDelta] = ()
    logprobs: Sequence[TokenLogprob] = ()


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The whole answer; `finish_reason` is stop, length, tool_calls, cancelled or deadline.

    `logprobs` are of all its tokens; None if they are not asked for.
    """

    key: str
    text: str
    finish_reason: str
    usage: Usage
    timings: Timings
    reasoning: str = ""
    calls: Sequence[ToolCall] = ()
    logprobs: Sequence[TokenLogprob] | None = None


class Refused(msgspec.Struct, frozen=True, tag="failed"):
    """The worker cannot answer the prompt; `code` is the protocol's, `param` names the field."""

    key: str
    code: str
    message: str
    param: str = ""


ToWorker = Start | Cancel | Walk  # after the settings
ForCanary = WalkEnded | WalkBroken | EndedPrompt
FromWorker = Ready | Heartbeat | Generated | Done | Refused | ForCanary
Message = WorkerSettings | ToWorker | FromWorker
T = TypeVar("T")


class PipeClosedError(EdgekitError):
    """The other process has ended, or has sent an invalid frame, which ends the pipe too."""


class Pipe(Generic[T]):
    """One end of the socketpair; `receives` is the union of the messages that it reads."""

    def __init__(self, sock: socket.socket, receives: Any) -> None:
        self.sock = sock
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(receives)
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray()
        self._unsent = bytearray()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def then(self, receives: Any) -> Pipe[Any]:
        """Return an end that reads messages of another union; this one must not be used again."""
        other: Pipe[Any] = Pipe(self.sock, receives)
        other._buffer, other._unsent = self._buffer, self._unsent
        return other

    def readable(self) -> bool:
        """Whether bytes can be received, or the other end is closed."""
        return bool(self._buffer or self._poll.poll(0))

    def send(self, message: Message) -> None:
        """Write one frame.

        Raises:
            PipeClosedError: the other end is closed.
        """
        try:
            self.sock.sendall(self._frame(message))
        except OSError as error:
            raise PipeClosedError("the pipe is closed", str(error)) from error

    def offer(self, message: Message) -> None:
        """Write as much of one frame as fits without waiting; `flush` writes the rest.

        Raises:
            PipeClosedError: the other end is closed.
        """
        self._unsent += self._frame(message)
        self.flush()

    @property
    def unsent(self) -> bool:
        """Whether a part of the offered frames is not written yet."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Write as much of the unsent bytes as fits without waiting.

        Raises:
            PipeClosedError: the other end is closed.
        """
        try:
            while self._unsent:
                del self._unsent[: self.sock.send(self._unsent, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return
        except OSError as error:
            raise PipeClosedError("the pipe is closed", str(error)) from error

    def receive(self, wait: bool = True) -> T | None:
        """Return the next message; None when `wait` is false and no whole one has arrived.

        Raises:
            PipeClosedError: the other end is closed, or sent an invalid frame.
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
