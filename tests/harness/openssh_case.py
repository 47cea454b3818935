"""A configuration in which OpenSSH and edgekit have to agree, as a value.

`@PORT@`, `@ED@` and so on are the words of `openssh_world`; `@DIR@` is the case's own folder.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.openssh_world import hashed

HERE = "[127.0.0.1]:@PORT@"
KNOWN = f"{HERE} @ED@\n"
TO = "Host box\n  HostName 127.0.0.1\n  Port @PORT@\n"
AS = "  IdentityFile @ID_FILE@\n"
BY = "  UserKnownHostsFile @DIR@/known\n"
BOX = TO + AS + BY


@dataclass(frozen=True)
class Case:
    """One configuration; `refused` is what edgekit names where OpenSSH goes on and it does not."""

    name: str
    config: str = BOX
    known: str = KNOWN
    destination: str = "box"
    ssh: tuple[str, ...] = ()  # the same destination in OpenSSH's words; empty: `destination`
    files: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path, Path], None] | None = None  # case's folder, world's folder
    refused: str = ""
    agent: bool = False


def hash_names(folder: Path, world: Path) -> None:
    del world
    path = folder / "known"
    names, *rest = path.read_text().split()
    path.write_text(" ".join([hashed(names), *rest]) + "\n")


def copy(source: Path, target: Path, mode: int = 0o600) -> None:
    shutil.copy(source, target)
    target.chmod(mode)


def copy_as(folder: Path, world: Path) -> None:
    copy(world / "id", folder / f"{getpass.getuser()}-127.0.0.1")


def krl(folder: Path, key: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", folder / "krl", key], check=True)


def lock(folder: Path, world: Path) -> None:
    copy(world / "id", folder / "locked")
    argv = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(folder / "locked")]
    subprocess.run(argv, check=True, capture_output=True)
