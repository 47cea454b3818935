"""A flood in one worker, in virtual time: every computation costs what is given, none is noise."""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from edgekit.agent.serve.pipe import (
    Done,
    Generated,
    Message,
    Pipe,
    PipeClosedError,
    Refused,
    Start,
    ToWorker,
)
from edgekit.agent.serve.worker.decoder import Logits
from edgekit.agent.serve.worker.worker import Worker
from edgekit.core.chat.sampling import Sampling
from edgekit.tokens.conversation import Turn
from edgekit.tokens.template import NOTHING, Value
from tests.fakes.decoder import VOCABULARY, FakeDecoder, FakeTokenizer

pytestmark = pytest.mark.timeout(60)

CALL_SECONDS, TOKEN_SECONDS = 0.010, 0.001  # of any computation; of a prompt's token besides
SLOTS = 4
QUESTION, ANSWER = 60, 40  # tokens of the victim's, the template's 16 apart
COMES_AT, NEVER = 5.0, 1e9
FLOODS = {  # tokens of prompts and of answers
    "short answers": (20, 8),
    "long answers": (20, 3000),
    "long prompts": (600, 1),
    "both": (600, 30),
    "refused prompts": (30_000, 1),
}


def start(key: str, length: int, limit: int) -> Start:
    """A prompt of its own: nothing of another is kept for it."""
    text = f"{key} " * length
    requester = key.split("/", maxsplit=1)[0]
    return Start(key, requester, [("user", text[:length])], Sampling(), [], limit, NEVER)


class Scene(Pipe[ToWorker]):
    """The parent of a worker, and its clock.

    A flood holds all slots but one: as one of its prompts ends the next one is there. The victim's
    comes later.
    """

    def __init__(self, flood: tuple[int, int] | None, slots: int) -> None:
        super().__init__(socket.socket(), ToWorker)
        self.now = 0.0
        self.flood = flood
        self.inbox: deque[Start] = deque()
        self.asked = 0
        self.began = self.ended = 0.0
        self.while_victim_runs: Counter[str] = Counter()  # letters of each prompt
        if flood:
            for _ in range(max(1, slots - 1)):
                self.ask()
        else:
            self.come()

    def ask(self) -> None:
        assert self.flood is not None
        self.asked += 1
        self.inbox.append(start(f"mallory/{self.asked}", *self.flood))

    def come(self) -> None:
        self.began = self.now
        self.inbox.append(start("victim/1", QUESTION, ANSWER))

    def spend(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= COMES_AT and not self.began and self.flood:
            self.come()

    def readable(self) -> bool:
        return bool(self.inbox)

    def receive(self, wait: bool = True) -> Start | None:
        if not self.inbox and wait:
            raise PipeClosedError("nobody asks")
        return self.inbox.popleft() if self.inbox else None

    def send(self, message: Message) -> None:
        if isinstance(message, Generated) and self.began:
            self.while_victim_runs[message.key] += len(message.text)
        elif isinstance(message, Done) and message.key == "victim/1":
            assert message.usage.completion_tokens == ANSWER
            self.ended = self.now
            raise PipeClosedError("the end")
        elif isinstance(message, Done | Refused):
            self.ask()


class Clocked(FakeDecoder):
    """A decoder whose computations take their time."""

    def __init__(self, scene: Scene, slots: int, batched: bool) -> None:
        super().__init__(4096, (), lambda _: scene.spend(CALL_SECONDS), slots, batched=batched)
        self.scene = scene
        self.logits = np.zeros(VOCABULARY, np.float32)
        self.logits[ord("x")] = 1.0  # always, which is quick

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        self.scene.spend(TOKEN_SECONDS * len(tokens))
        return super().extend(slot, tokens)

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        """One call, however many tokens."""
        self.scene.spend(CALL_SECONDS * (1 - len(tokens)))
        return super().step(tokens)

    def _logits(self, slot: int) -> Logits:
        return self.logits.copy()


class Slow(FakeTokenizer):
    """A tokenizer that takes its time with long prompts."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def encode_chat(
        self, turns: Sequence[Turn], tools: Sequence[Value] = (), options: Value = NOTHING
    ) -> list[int]:
        tokens = super().encode_chat(turns, tools, options)
        self.scene.spend(len(tokens) * 1e-6)
        return tokens


def played(flood: tuple[int, int] | None, slots: int = SLOTS, batched: bool = False) -> Scene:
    """The scene at the end of the victim's answer."""
    scene = Scene(flood, slots)
    decoder = Clocked(scene, slots, batched)
    Worker(scene, decoder, Slow(scene), lambda: scene.now).run()
    scene.sock.close()
    assert scene.ended
    return scene


@pytest.mark.parametrize("batched", [False, True], ids=["", "batched"])
@pytest.mark.parametrize("name", FLOODS)
def test_a_victim_is_served_within_twice_its_idle_time_and_the_flood_goes_on(
    name: str, batched: bool
) -> None:
    idle = played(None, batched=batched)
    flooded = played(FLOODS[name], batched=batched)
    ratio = (flooded.ended - flooded.began) / (idle.ended - idle.began)
    print(f"{name}: {ratio:.2f}, {flooded.while_victim_runs}")
    assert 1.05 < ratio < 1.6
    if name == "long answers":  # none stands still
        answers = {key: n for key, n in flooded.while_victim_runs.items() if key != "victim/1"}
        assert len(answers) == SLOTS - 1
