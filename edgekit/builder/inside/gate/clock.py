"""Times the reference while it is made, and announces early how long the whole gate takes."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from common.reporting import Reporter
from gate.duration import Amounts, Parts, Speeds, now, parts
from gate.logits import Sequence

SUMMARY = "summary.json"
"""The reference's figures, in its folder."""

STEPS = 8
"""Steps of a batch after which the time is announced."""

TEXTS = 4
"""Texts after which a model whose reference is in the cache announces it; the first is slower."""

_OVERHEAD = 2.0  # factor for norms, attention and activations (measured)


class Clock:
    """Speeds of the full-precision model on this machine, and what they amount to."""

    def __init__(self, amounts: Amounts, reporter: Reporter) -> None:
        self._started = time.perf_counter()
        self._reporter = reporter
        self._load = 0.0
        self._speeds: Speeds | None = None
        self.amounts = amounts
        self.announced = 0.0

    @property
    def said(self) -> str:
        """The announcement in brackets; empty before there is one."""
        return f" (about {max(1, round(self.announced))} s in all)" if self.announced else ""

    def loaded(self) -> None:
        """The model computes from here on."""
        self._load = time.perf_counter() - self._started

    def written(self, pace: Any) -> None:
        """A step of the batch has ended."""
        if not self.announced and len(pace.at) > STEPS:
            read = pace.prefill / (pace.rows * pace.width) / self.amounts.body
            self._announce(Speeds(self._load, read, pace.step))

    def reads(self) -> None:
        """The model only reads."""
        self._announce(Speeds(self._load, reading_seconds(self.amounts.parameters), 0.0))

    def result(self) -> dict[str, float]:
        """The speeds and the times, for the summary."""
        speeds = self._speeds or Speeds(self._load, 0.0, 0.0)
        return {
            "load_seconds": round(speeds.load, 3),
            "read_seconds": round(speeds.read, 6),
            "step_seconds": round(speeds.step, 5),
            "seconds": round(time.perf_counter() - self._started, 1),
        }

    def _announce(self, speeds: Speeds) -> None:
        self._speeds = speeds
        self.announced = announce(parts(self.amounts, speeds), self._reporter)


class Announcement:
    """Says how long the rest of the gate takes, once the model has read the first texts."""

    def __init__(self, amounts: Amounts, before: Speeds, reporter: Reporter) -> None:
        self._amounts, self._before, self._reporter = amounts, before, reporter
        self._since = time.perf_counter()
        self._read = self._scored = 0
        self.said = ""

    def read(self, number: int, following: Sequence) -> None:
        """So many texts are read, and this one follows."""
        time_now = time.perf_counter()
        if number == 1:  # the first is slower
            self._since, self._read, self._scored = time_now, 0, 0
        if number == TEXTS and self._read and self._before.read:
            speeds = now(
                self._amounts, self._before, time_now - self._since, self._read, self._scored
            )
            expected_parts = replace(parts(self._amounts, speeds), reference=0.0)
            total = announce(expected_parts, self._reporter)
            self.said = f" (about {max(1, round(total))} s in all)"
        self._read += len(following.tokens) - 1
        self._scored += len(following.targets)


def announce(expected: Parts, reporter: Reporter) -> float:
    """Report the expected parts; return their total."""
    reporter.event(
        "estimate", seconds=round(expected.total, 1), text=round(expected.text, 1),
        reference=round(expected.reference, 1), model=round(expected.model, 1),
        layers=round(expected.layers, 1),
    )  # fmt: skip
    return expected.total


def speeds_of(summary: dict[str, float]) -> Speeds:
    """The speeds that `Clock.result` wrote."""
    return Speeds(summary["load_seconds"], summary["read_seconds"], summary["step_seconds"])


def reading_seconds(parameters: int) -> float:
    """Seconds in which full precision reads a token, by the speed of a product of matrices."""
    import torch

    rows, matrix = torch.rand(128, 2048), torch.rand(2048, 2048)
    operation = _timed(lambda: rows @ matrix) / (2 * 128 * 2048 * 2048)
    return 2 * parameters * operation * _OVERHEAD


def _timed(action: Callable[[], object]) -> float:
    action()
    started = time.perf_counter()
    for _ in range(5):
        action()
    return (time.perf_counter() - started) / 5
