"""Counts that are no timings: `python -m tests.show NAME…` runs each for real.

A count is a module of this package, named like it with `_` for `-`, with a function `count()` that
returns the figures and whether all of them are as they must be. `COUNTS` is the table; a module is
imported when its count is asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

COUNTS = {
    "chat-oracle": "conversations whose text and tokens are transformers', and forged turns",
    "tool-oracle": "chats with tools whose text and tokens are transformers', and forged calls",
    "planted": "planted faults that lint or gate find, and healthy builds that they refuse",
    "attacks": "attacks on a device that are refused and leave it untouched",
    "reboots": "reboots of a real systemd device, after which the right release answers",
    "crash-matrix": "faults at every call of a device's file system, after which it is well again",
    "enroll-cuts": "enrolments cut after a step, which are removed without a trace or gone on with",
    "openssh-oracle": "SSH configurations in which OpenSSH and edgekit agree",
    "fleet-ten": "ten real devices that are enrolled, pushed to in waves, and answer",
    "fleet-arm64": "an emulated arm64 device beside an amd64 one, enrolled, pushed to, asked",
    "controller-kills": "kills of a rollout's controller, after which it goes on as if unharmed",
    "fleet-thousand": "1,000 simulated devices under the real runner: CPU, memory, connections",
    "rules": "a rule under 100 messages a second, agent and broker killed: answers, none doubled",
    "quality-canary": "good rebuilds without an alarm, damage inside the gate's tolerance detected",
    "pull": "scenes of devices that pull: off and joining later, a dead registry, lies, forgeries",
    "pull-fleet": "10,000 simulated devices that pull by a real broker: CPU, memory, messages",
    "hostile-pictures": "damaged and hostile pictures that a worker refuses, and goes on",
    "vision-layouts": "layouts of pictures whose features and answers are torch's, in tiny",
    "schemas": "answers to JSON Schemas, of noise and of a real model, that parse and are valid",
    "self-healing": "bad releases that a device rolls back alone, the controller killed",
    "gateway-clients": "200 streams at once by OpenAI's SDK; gateway, broker and devices killed",
    "top-thousand": "`edgekit top` with 1,000 devices: CPU, memory, how it draws, who goes away",
}
"""Name -> what is counted; in the order in which they run."""

Figures = dict[str, object]


def module_of(name: str) -> str:
    """The module that counts."""
    return f"{__name__}.{name.replace('-', '_')}"


def available() -> dict[str, str]:
    """The part of the table whose modules are there."""
    return {name: what for name, what in COUNTS.items() if find_spec(module_of(name))}


def show(name: str) -> tuple[str, bool]:
    """One line with the figures of a count, and whether they are as they must be."""
    figures: Figures
    figures, sound = import_module(module_of(name)).count()
    said = " ".join(f"{key}={value}" for key, value in figures.items())
    return f"{name} {said}", sound
