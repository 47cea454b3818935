"""`agent.second_picture_ratio`: a second question about a picture that the model has seen."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figure import figure
from benchmarks.rig import Rig
from edgekit.agent.serve.pipe import Done, Generated, Refused, Start
from edgekit.core.chat.sampling import Sampling
from edgekit.errors import EdgekitError
from tests.harness.worker_process import ReadyWorker, ready_worker
from tests.photos import drawn, encoded
from tests.vision_folder import vision_folder

CROPS = 1  # as a small device has it
SIDE = 672  # pixels, as a client sends a picture
SETTLE_SECONDS = 0.05
_keys = itertools.count(1)


@figure(
    "agent.second_picture_ratio",
    what="First token of a second question about a picture, over the first question's",
    unit="ratio",
    against="the same picture seen cold, one crop and 313 tokens; the vision part in the size of "
    "Phi-3.5-vision's in FP32, the text part tiny",
)
def second_picture_ratio(rig: Rig) -> list[float]:
    """Seconds from the second question to its first delta over those of the first question."""
    with tempfile.TemporaryDirectory() as place:
        model = vision_folder(Path(place) / "phi3v", "--real-vision") / "model"
        with ready_worker(model, image_crops=CROPS) as worker:

            def one_round(seed: int) -> float:
                turns: list[Any] = [("user", [jpeg(seed), "What is this?"])]
                cold, text = first_delta(worker, turns)
                turns += [("assistant", text), ("user", "Which colours does it have?")]
                return first_delta(worker, turns)[0] / cold

            one_round(0)
            return [one_round(seed) for seed in range(1, rig.rounds + 1)]


def jpeg(seed: int) -> bytes:
    """A picture as a client sends it."""
    return encoded(drawn(SIDE, SIDE, seed), "JPEG", quality=85)


def first_delta(worker: ReadyWorker, turns: list[Any]) -> tuple[float, str]:
    """Seconds to the first delta of a prompt, and the whole answer.

    Raises:
        EdgekitError: the worker did not answer.
    """
    time.sleep(SETTLE_SECONDS)
    key, first = f"b/{next(_keys)}", 0.0
    began = time.perf_counter()
    worker.pipe.send(Start(key, "b", turns, Sampling(), [], 24, time.monotonic() + 60))
    while True:
        message = worker.pipe.receive()
        if isinstance(message, Generated) and not first:
            first = time.perf_counter() - began
        if isinstance(message, Done) and first:
            return first, message.text
        if isinstance(message, Refused):
            raise EdgekitError("the worker did not answer", message.message)
