"""Cuts an enrolment after each of its steps, as an account with sudo and as one without."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.enroll_cuts import cuts
from tests.harness.systemd_device import systemd_device
from tests.show import Figures


def count() -> tuple[Figures, bool]:
    """The figures, and whether each cut was removed without a trace or gone on with."""
    total = 0
    missed: list[str] = []
    home, agent = os.environ.get("HOME", ""), os.environ.pop("SSH_AUTH_SOCK", None)
    with tempfile.TemporaryDirectory() as name, systemd_device(Path(name, "device")) as device:
        (Path(name) / ".ssh").mkdir()
        (Path(name) / ".ssh" / "config").write_text(device.ssh_config())
        os.environ["HOME"] = name
        try:
            for user in ("admin", "pi"):
                tried, wrong = cuts(device, user)
                total += tried
                missed += wrong
        finally:
            os.environ["HOME"] = home
            if agent is not None:
                os.environ["SSH_AUTH_SOCK"] = agent
    figures: Figures = {"cuts": total, "wrong": len(missed)}
    if missed:
        figures["missed"] = "; ".join(missed)[:500].replace(" ", "-")
    return figures, not missed
