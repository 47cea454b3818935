"""The commands of a push on a device, as argv values. Pure.

SSH always starts a login shell on the device. `relay_line` is the one line that it reads; all other
commands go to the relay as values and meet no shell.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.fleet.facts import DeviceFacts

Argv = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    stdout: bytes
    stderr: bytes


class Tree(Enum):
    """The agent on a device that runs a verb."""

    RELEASE = "release"  # the agent of `current`
    BOOTSTRAP = "bootstrap"  # the agent of a first contact


def relay_line(python: str, mark: int, size: int) -> str:
    """The line for the login shell: Python says its version, then reads the relay.

    sh, csh, fish, zsh and restricted shells read this line alike: no newline, backslash or
    exclamation mark, and single quotes around everything special. `-I` keeps Python from importing
    from the home, and from PYTHON* variables of login scripts. The mark is printed in another base:
    an echo of the line is not taken for the answer.

    Args:
        python: the device's Python; `~/` stands for the home of the account.
        mark: a random number; in hexadecimal it precedes the version, `3.11`.
        size: bytes of the relay's text, which follows on standard input.
    """
    home, _, rest = python.partition("~/")
    word = f"~/{shlex.quote(rest)}" if rest and not home else shlex.quote(python)
    hello = f'print("%x %d.%d"%(({mark},)+sys.version_info[:2]),flush=True)'
    return f"{word} -I -c 'import sys;{hello};exec(sys.stdin.buffer.read({size}))'"


def probe(python: str, root: str) -> Argv:
    """The command that prints a device's facts; `probe.py` goes to its standard input."""
    return (python, "-", root)


def receive_bootstrap(facts: DeviceFacts, script: str, name: str, size: int) -> Argv:
    """The command that unpacks a tar of `size` bytes as `root/bootstrap-<name>` and links it.

    It says how many bytes of the tar are there. `script` is the text of `receive.py`.
    """
    return (facts.executable, "-c", script, facts.root, name, str(size))


def bootstrap_part(facts: DeviceFacts, name: str) -> str:
    """The path on the device where a first contact collects the bytes of its tar."""
    return str(PurePosixPath(facts.root) / f".bootstrap-{name}.part")


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
