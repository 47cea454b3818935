"""Tries every attack of the table on a device of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests import attacks
from tests.attacked import make_device
from tests.show import Figures


def count() -> tuple[Figures, bool]:
    """The figures, and whether every attack was refused and left the device untouched."""
    refused = untouched = 0
    missed = []
    with tempfile.TemporaryDirectory() as name:
        template = make_device(Path(name) / "template").root.path
        for index, attack in enumerate(attacks.all_attacks()):
            folder = Path(name) / str(index)
            folder.mkdir()
            was_refused, was_untouched, _ = attacks.run(attack, template, folder)
            refused += was_refused
            untouched += was_untouched
            if not (was_refused and was_untouched):
                missed.append(attack.replace(" ", "-"))
    total = len(attacks.all_attacks())
    figures: Figures = {"attacks": total, "refused": refused, "untouched": untouched}
    if missed:
        figures["missed"] = ",".join(missed)
    return figures, not missed
