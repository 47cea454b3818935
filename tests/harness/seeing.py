"""A worker with a real model that takes pictures, in this process, and what it computes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.agent.serve.pipe import Done, FromWorker, Pipe, Refused, Start, ToWorker
from edgekit.agent.serve.worker.decoder import (
    Features,
    Limits,
    Logits,
    RuntimeOptions,
    open_model,
)
from edgekit.agent.serve.worker.decoder.graph import read_graph
from edgekit.agent.serve.worker.decoder.slots import SlotDecoder
from edgekit.agent.serve.worker.pictures.eyes import FamilyEyes, SeenPicture
from edgekit.agent.serve.worker.pictures.smolvlm import SmolVlmPage
from edgekit.agent.serve.worker.worker import Worker
from edgekit.core.chat.sampling import Sampling
from edgekit.core.pictures import Content
from edgekit.tokens.chat import ChatTokenizer, open_tokenizer

Turns = Sequence[tuple[str, Content]]
NO_DEADLINE = 1e12


class Watched:
    """A decoder and its vision; notes what is computed, in its order.

    Attributes:
        work: `look` for a view, and the number of items of each slice or step.
        before: called with that before it is computed.
    """

    def __init__(self, decoder: SlotDecoder) -> None:
        assert decoder.vision is not None
        self._decoder, self._vision = decoder, decoder.vision
        self.work: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self.vision = self

    @property
    def limits(self) -> Limits:
        return self._decoder.limits

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        self._note(f"extend {slot} {len(tokens)}")
        return self._decoder.extend(slot, tokens)

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        self._note("step " + " ".join(map(str, sorted(tokens))))
        return self._decoder.step(tokens)

    def greedy(self, slot: int) -> int:
        return self._decoder.greedy(slot)

    def truncate(self, slot: int, length: int) -> None:
        self._decoder.truncate(slot, length)

    def length(self, slot: int) -> int:
        return self._decoder.length(slot)

    def look(self, view: Features) -> Features:
        self._note("look")
        return self._vision.look(view)

    def keep(self, key: int, rows: Features) -> None:
        self._vision.keep(key, rows)

    def keeps(self, key: int) -> bool:
        return self._vision.keeps(key)

    def _note(self, what: str) -> None:
        self.before(what)
        self.work.append(what)

    @property
    def looks(self) -> int:
        return self.work.count("look")


@dataclass
class Seeing:
    """The worker's parent."""

    pipe: Pipe[FromWorker]
    decoder: Watched
    tokenizer: ChatTokenizer
    eyes: FamilyEyes
    folder: Path
    tokens: list[int] = field(default_factory=list)  # what was answered last, but the last one
    logits: Logits | None = None  # after the last prompt

    def start(self, turns: Turns, key: str = "a/1", requester: str = "a", **more: Any) -> Start:
        """A prompt for ten greedy tokens."""
        limit = more.pop("answer_limit", 10)
        return Start(key, requester, turns, Sampling(), [], limit, NO_DEADLINE, **more)

    def ask(self, turns: Turns, requester: str = "a", **more: Any) -> Done | Refused:
        """Send a prompt and wait for its end."""
        self.decoder.work.clear()
        self.pipe.send(self.start(turns, requester=requester, **more))
        return self.ends(1)[0]

    def ends(self, count: int) -> list[Done | Refused]:
        """The ends of the next prompts."""
        found: list[Done | Refused] = []
        while len(found) < count:
            message = self.pipe.receive()
            assert message is not None
            if isinstance(message, Done | Refused):
                found.append(message)
        return found

    def done(self, turns: Turns, requester: str = "a", **more: Any) -> Done:
        """As `ask`, for a prompt that is answered."""
        found = self.ask(turns, requester, **more)
        assert isinstance(found, Done), found
        return found

    def case(self, turns: Turns, number: int, crops: int) -> dict[str, npt.NDArray[np.generic]]:
        """The prompt as torch is asked it."""
        eyes = eyes_of(self.folder, crops, self.tokenizer)
        pictures = [
            eyes.see(part, "torch")
            for _, content in turns
            if not isinstance(content, str)
            for part in content
            if isinstance(part, bytes)
        ]
        text: list[Any] = list(turns)
        if not pictures:
            ids = self.tokenizer.encode_chat(text)
            return {f"ids_{number}": np.array(ids), f"greedy_{number}": np.array(10)}
        pieces = self.tokenizer.encode_around(text)
        ids = list(pieces[0])
        for picture, piece in zip(pictures, pieces[1:], strict=True):
            ids += [max(-1, item) for item in picture.items] + piece
        return {
            f"ids_{number}": np.array(ids, np.int64),
            **shown(pictures, number),
            f"greedy_{number}": np.array(10),
        }


def shown(pictures: Sequence[SeenPicture], number: int) -> dict[str, npt.NDArray[np.generic]]:
    """The pixels of a case's pictures, as the reference of their family takes them."""
    if isinstance(pictures[0].page, SmolVlmPage):
        views = [each.view(view) for each in pictures for view in range(each.views)]
        return {f"pixels_{number}": np.stack(views)}
    most = max(picture.views for picture in pictures)
    pixels = np.zeros((len(pictures), most, 3, 336, 336), np.float32)
    for place, picture in enumerate(pictures):
        for view in range(picture.views):
            pixels[place, view] = picture.view(view)
    sizes = [tuple(each.page.pixels.shape[:2]) for each in pictures]
    return {f"pixels_{number}": pixels, f"sizes_{number}": np.array(sizes, np.int64)}


def eyes_of(folder: Path, crops: int, tokenizer: ChatTokenizer) -> FamilyEyes:
    """What reads pictures for the model of a folder."""
    family = read_graph(folder).family
    assert family is not None
    return FamilyEyes(family, crops, tokenizer.encode)


@contextmanager
def seeing(
    folder: Path,
    *,
    crops: int = 4,
    slots: int = 1,
    max_length: int = 4096,
    kept_rows: int = 20_000,
    flush_seconds: float = 10.0,
) -> Iterator[Seeing]:
    """A running worker on a model folder."""
    decoder, _ = open_model(
        folder, max_length, RuntimeOptions(2, False), slots, kept_rows=kept_rows
    )
    assert isinstance(decoder, SlotDecoder)
    watched, tokenizer = Watched(decoder), open_tokenizer(folder)
    eyes = eyes_of(folder, crops, tokenizer)
    ours, theirs = socket.socketpair()
    parent = Seeing(Pipe(ours, FromWorker), watched, tokenizer, eyes, folder)

    def noting(_sampling: Sampling, _prompt: Sequence[int]) -> list[Any]:
        tokens = parent.tokens = []

        def note(answer: Sequence[int], logits: Logits) -> None:
            tokens[:] = answer
            if not answer:
                parent.logits = logits.copy()

        return [note]

    worker = Worker(
        *(Pipe(theirs, ToWorker), watched, tokenizer, time.monotonic, noting),
        flush_seconds=flush_seconds,
        eyes=eyes,
    )
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    ours.settimeout(60)
    yield parent
    ours.close()
    thread.join(10)
    assert not thread.is_alive(), "the worker outlives its parent"
    theirs.close()
