"""A project: the folder with `edgekit.toml`, found upwards; precedence flag, environment, file."""

from __future__ import annotations

import getpass
import os
import re
import socket
from pathlib import Path

import msgspec

from edgekit.bundle.layout import Layout
from edgekit.bundle.sign import KEY_NAME, make_key
from edgekit.core.config import BrokerConfig
from edgekit.errors import UsageError
from edgekit.fleet import inventory

FILE = "edgekit.toml"


class ProjectConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`edgekit.toml`."""

    broker: BrokerConfig = BrokerConfig()
    requester: str = ""  # our name on the broker; empty: USER.HOST


class Project(msgspec.Struct, frozen=True):
    """A project's folder and its configuration."""

    folder: Path
    config: ProjectConfig

    @property
    def store(self) -> Layout:
        """The bundles of this project."""
        layout = Layout(self.folder / ".edgekit" / "store")
        (self.folder / ".edgekit").mkdir(mode=0o700, exist_ok=True)
        layout.create()
        return layout

    @property
    def keys(self) -> Path:
        """The keys of this project: private, never in the store, not in git."""
        return keys_folder(self.folder)

    def fleet(self) -> inventory.Fleet:
        """Raises: UsageError when `fleet.toml` is missing or wrong."""
        return inventory.load(self.folder / "fleet.toml")

    @property
    def broker(self) -> BrokerConfig:
        """The broker: `EDGEKIT_BROKER=host[:port]` wins over the file."""
        text = os.environ.get("EDGEKIT_BROKER")
        return parse_broker(text, self.config.broker) if text else self.config.broker

    @property
    def requester(self) -> str:
        """Our name as a requester, a valid topic level."""
        name = self.config.requester or f"{getpass.getuser()}.{socket.gethostname()}"
        return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:64]


def keys_folder(project: Path) -> Path:
    """Where a project's keys lie."""
    return project / ".edgekit" / "keys"


def parse_broker(text: str, base: BrokerConfig) -> BrokerConfig:
    """`host`, `host:port`, `[IPv6]:port` or an IPv6 address over `base`.

    Raises:
        UsageError: the port is not one.
    """
    bracketed = re.fullmatch(r"\[(.+)\](?::(.*))?", text)
    host, _, port = text.partition(":") if text.count(":") < 2 else (text, "", "")
    if bracketed:
        host, port = bracketed[1], bracketed[2] or ""
    try:
        return msgspec.structs.replace(base, host=host, port=int(port or base.port))
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not a broker", str(error), "write host:port or [IPv6]:port"
        ) from None


def find(start: Path | None) -> Project:
    """The project of `start` (default: the working folder) or of a folder above it.

    Raises:
        UsageError: there is none, or its file is wrong.
    """
    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *(() if start else folder.parents)):
        path = candidate / FILE
        if path.is_file():
            try:
                return Project(
                    candidate, msgspec.toml.decode(path.read_bytes(), type=ProjectConfig)
                )
            except (msgspec.MsgspecError, ValueError) as error:
                raise UsageError(
                    f"{path} is not valid", str(error), "correct it in the file"
                ) from error
    raise UsageError(
        f"there is no {FILE} in {folder}" + ("" if start else " or above it"),
        next_step="`edgekit init` makes a project here",
    )


PROJECT_TOML = """\
# The edgekit project of this folder. Flags and EDGEKIT_* variables win over it.

[broker]
host = "127.0.0.1"
port = {port}
"""

FLEET_TOML = """\
# The devices of this project.
#   address = "ssh:pi@raspberrypi.local"   or a Host of ~/.ssh/config
#   address = "local:.edgekit/devices/demo" a folder of this machine that plays a device

[devices.demo]
address = "local:.edgekit/devices/demo"
"""


def init(folder: Path, port: int) -> list[tuple[Path, bool]]:
    """Write a project's files and its signing key; existing files stay.

    Returns:
        (path, whether this call wrote it).
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        FILE: PROJECT_TOML.format(port=port),
        "fleet.toml": FLEET_TOML,
        ".gitignore": "/.edgekit/\n",
    }
    done = []
    for name, text in texts.items():
        path = folder / name
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            done.append((path, True))
        except FileExistsError:
            done.append((path, False))
    (folder / ".edgekit").mkdir(mode=0o700, exist_ok=True)
    keys = keys_folder(folder)
    done.append((keys / KEY_NAME, make_key(keys)))
    return done
