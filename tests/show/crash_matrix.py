"""Every state of a device, every call of the file system, every fault; and what a sample of real
processes does. `python -m tests.crash.matrix` prints each violation of the middle part."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.crash import enrolment, matrix, pure, real
from tests.show import Figures

LEAST = 2000


def count() -> tuple[Figures, bool]:
    """The figures, and whether nothing was violated in enough distinct cases."""
    began = sum(_cpu())
    violations, stories = pure.run()
    made = matrix.run()
    violations += [f"{key}: {what}" for key, what in made.violations.items()]
    enrolments = enrolment.run_all()
    violations += [f"{key}: {what}" for key, what in enrolments.violations.items()]
    violations += _real()
    cases = stories + len(made.keys) + len(enrolments.keys) + len(real.CASES)
    for line in violations[:10]:
        print(line)
    figures: Figures = {
        "cases": cases,
        "pure": stories,
        "shim": len(made.keys),
        "enrolment": len(enrolments.keys),
        "real": len(real.CASES),
        "violations": len(violations),
        "seconds": round(sum(_cpu()) - began),
    }
    return figures, not violations and cases >= LEAST


def _real() -> list[str]:
    """What the real sample violates."""
    violations = []
    with tempfile.TemporaryDirectory(prefix="edgekit-crash-") as name:
        template = real.prepare(Path(name) / "template")
        for number, case in enumerate(real.CASES):
            try:
                real.run(template, Path(name) / str(number), case)
            except AssertionError as error:
                violations.append(f"{case.name}: {error}")
    return violations


def _cpu() -> tuple[float, float]:
    """CPU seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system, times.children_user + times.children_system
