"""Hostile pictures before a real model's process, which answers another prompt after each.

Besides the pictures of `tests/photos.py`, each of which must be refused by name: a JPEG, a
progressive one and a PNG cut at 200 places each, and 300 pictures with a few bytes changed. A PNG
has sums that tell a change. A JPEG has none: most of the changed ones are still pictures, and are
answered.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edgekit.agent.serve.pipe import Done, Refused
from edgekit.core.pictures import Content
from tests.harness.worker_process import ReadyWorker, ready_worker
from tests.photos import drawn, encoded, hostile, png
from tests.show import Figures
from tests.vision_folder import vision_folder

CUTS, CHANGED = 200, 300
MOST_SECONDS = 5.0  # for one picture
MOST_MB = 300.0  # more than before the first one
QUESTION = "What is this?"

Turns = list[tuple[str, Content]]


def wholes() -> list[bytes]:
    """Files that are cut and changed."""
    image = drawn(320, 240)
    jpeg = (encoded(image, "JPEG", quality=90, progressive=each) for each in (False, True))
    return [*jpeg, encoded(image)]


def cut() -> Iterator[bytes]:
    """Files without their end; the last 16 bytes may hold no pixel."""
    for whole in wholes():
        for place in range(CUTS):
            yield whole[: (len(whole) - 16) * place // CUTS]


def changed() -> Iterator[bytes]:
    """Files with a few other bytes, behind the first ones."""
    chance = random.Random(7)
    files = wholes()
    for number in range(CHANGED):
        data = bytearray(files[number % len(files)])
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(8, len(data))] = chance.randrange(256)
        yield bytes(data)


def count() -> tuple[Figures, bool]:
    """The figures, and whether the worker refused what it must and answered after each."""
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        model = vision_folder(Path(place) / "phi3v") / "model"
        with ready_worker(model, image_crops=1) as worker:
            good: Turns = [("user", [png(400, 400), QUESTION])]
            first = worker.asked(good)
            assert isinstance(first, Done)
            before, slowest = worker.peak_mb(), 0.0
            kinds = {
                "hostile": [(data, says) for _, data, says in hostile()],
                "cut": [(data, "") for data in cut()],
                "changed": [(data, "") for data in changed()],
            }
            for kind, pictures in kinds.items():
                for data, says in pictures:
                    began = time.monotonic()
                    found = worker.asked([("user", [data, QUESTION])])
                    slowest = max(slowest, time.monotonic() - began)
                    if isinstance(found, Refused):
                        ends[f"{kind}_refused"] += 1
                        if says not in found.message:
                            wrong.append(f"{kind}: {found.message}")
                    else:
                        ends[f"{kind}_answered"] += 1
                        if kind != "changed" or data.startswith(b"\x89PNG"):
                            wrong.append(f"{kind}: answered, {len(data)} bytes")
                    if not _as_before(worker, first, good):
                        wrong.append(f"{kind}: another answer afterwards")
            growth = worker.peak_mb() - before
    for line in wrong[:5]:
        print(line)
    figures: Figures = {
        **ends,
        "answers_after": sum(ends.values()) - sum("afterwards" in line for line in wrong),
        "worker_ended": 0,  # else this count has failed
        "slowest_seconds": round(slowest, 1),
        "memory_growth_mb": round(growth),
        "wrong": len(wrong),
    }
    sound = not wrong and slowest <= MOST_SECONDS and growth <= MOST_MB
    return figures, sound and ends["hostile_refused"] >= 45


def _as_before(worker: ReadyWorker, first: Done, good: Turns) -> bool:
    again = worker.asked(good)
    return isinstance(again, Done) and again.text == first.text
