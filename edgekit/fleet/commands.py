"""The commands of a push on a device, as argv values. Pure; no value is a shell string.

SSH always starts a shell on the device: `remote` quotes every word for it.
"""

from __future__ import annotations

from enum import Enum
from pathlib import PurePosixPath

from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.fleet.facts import DeviceFacts

Argv = tuple[str, ...]


class Tree(Enum):
    """The agent on a device that runs a verb."""

    RELEASE = "release"  # the agent of `current`
    BOOTSTRAP = "bootstrap"  # the agent of a first contact


def probe(python: str, root: str) -> Argv:
    """The command that prints a device's facts; `probe.py` goes to its standard input."""
    return (python, "-", root)


def receive_bootstrap(facts: DeviceFacts, script: str, name: str) -> Argv:
    """The command that unpacks a tar from standard input as `root/bootstrap-<name>` and links it.

    `script` is the text of `receive.py`, an argument because standard input carries the tar.
    """
    return (facts.executable, "-c", script, facts.root, name)


def agent(facts: DeviceFacts, tree: Tree, *arguments: str) -> Argv:
    """The command for a verb of one of the device's agents, in the environment of `core.layout`."""
    root = PurePosixPath(facts.root)
    if tree is Tree.RELEASE:
        trees = layout.release_trees(root / layout.CURRENT)
    else:
        trees = layout.bootstrap_trees(root)
    environment = layout.environment(root, trees)
    verb, *rest = arguments
    return (
        *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
        *(facts.executable, "-S", "-P", "-m", "edgekit.agent", verb, "--root", facts.root),
        *rest,
    )


def part_path(facts: DeviceFacts, digest: Digest) -> str:
    """The path on the device where a transfer collects the bytes of a blob."""
    return str(PurePosixPath(facts.root) / layout.part(digest))
