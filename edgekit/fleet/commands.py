"""What is run on a device, as argv values: nothing here runs anything, nothing is a shell string.

`remote` quotes every word for the one shell that SSH insists on.
"""

from __future__ import annotations

from enum import Enum
from pathlib import PurePosixPath

from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.fleet.facts import DeviceFacts

Argv = tuple[str, ...]


class Tree(Enum):
    """Which of a device's agents runs a verb."""

    RELEASE = "release"  # the agent of `current`
    BOOTSTRAP = "bootstrap"  # the agent of a first contact


def probe(python: str, root: str) -> Argv:
    """Print the device's facts; the script comes on standard input."""
    return (python, "-", root)


def receive_bootstrap(facts: DeviceFacts, script: str, name: str) -> Argv:
    """Unpack a tar from standard input as `root/bootstrap-<name>` and link it.

    The script is `receive.py`, passed as an argument because standard input has the tar.
    """
    return (facts.executable, "-c", script, facts.root, name)


def agent(facts: DeviceFacts, tree: Tree, *arguments: str) -> Argv:
    """A verb of an agent that the device has, in the environment that `core.layout` gives it."""
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
    """Where a transfer collects the bytes of a blob."""
    return str(PurePosixPath(facts.root) / layout.part(digest))
