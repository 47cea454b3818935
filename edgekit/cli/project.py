"""A project: the folder with `edgekit.toml`, found upwards; precedence flag, environment, file."""

from __future__ import annotations

import getpass
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.bundle.layout import Layout
from edgekit.core.config import NAME, NAME_RULE, BrokerConfig
from edgekit.core.tomlfile import convert, read_table
from edgekit.errors import UsageError
from edgekit.fleet import inventory

if TYPE_CHECKING:  # most commands run no rollout
    from edgekit.fleet.rollout.book import RolloutBook

FILE = "edgekit.toml"
_BROKER = re.compile(
    r"(?P<bare>(?:[0-9A-Fa-f]*:){2,}[0-9A-Fa-f.]*)\Z"
    r"|(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/\[\]]+))(?::(?P<port>\d+))?\Z"
)


class RegistrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this machine publishes; paths are its own. Empty values are those of `[pull]`."""

    address: str = ""  # [https://]HOST[:PORT]/REPOSITORY; empty: as devices name it
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    plain_http: bool = False


class ProjectConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`edgekit.toml`."""

    broker: BrokerConfig = BrokerConfig()
    requester: str = ""  # our name on the broker; empty: USER.HOST
    operator: dict[str, Any] = {}  # over [broker], for who says what devices that pull shall run
    registry: RegistrySettings = RegistrySettings()

    def __post_init__(self) -> None:
        # another name than the account's would be refused by the broker, with no word of the change
        if self.requester and not NAME.match(self.requester):
            raise ValueError(f"requester {self.requester!r} is not a name: {NAME_RULE}")


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

    @property
    def rollouts(self) -> RolloutBook:
        """The rollouts of this project."""
        from edgekit.fleet.rollout.book import RolloutBook  # noqa: PLC0415  see above

        return RolloutBook(self.folder / ".edgekit" / "rollouts")

    def fleet(self) -> inventory.Fleet:
        """Raises: UsageError when `fleet.toml` is missing or wrong."""
        return inventory.load(self.folder / "fleet.toml")

    @property
    def broker(self) -> BrokerConfig:
        """The broker: `EDGEKIT_BROKER=host[:port]` wins over the file."""
        text = os.environ.get("EDGEKIT_BROKER")
        return parse_broker(text, self.config.broker) if text else self.config.broker

    @property
    def operator_broker(self) -> BrokerConfig:
        """The broker with the account that may say what devices run.

        Raises:
            UsageError: a key of [operator] is none of [broker], or has a wrong value.
        """
        told = msgspec.structs.asdict(self.broker) | self.config.operator
        try:
            return msgspec.convert(told, BrokerConfig)
        except ValueError as error:  # a ValidationError is one
            raise UsageError(
                f"[operator] of {self.folder / FILE} is not valid",
                str(error),
                "correct it in the file; [operator] takes the keys of [broker]",
            ) from None

    @property
    def requester(self) -> str:
        """Our name as a requester, a valid topic level."""
        name = self.config.requester or f"{getpass.getuser()}.{socket.gethostname()}"
        return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:64]


def operator() -> str:
    """Who gives the commands, `user@host`: for journals, and for devices that are held."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def keys_folder(project: Path) -> Path:
    """Where a project's keys lie."""
    return project / ".edgekit" / "keys"


def parse_broker(text: str, base: BrokerConfig) -> BrokerConfig:
    """`host`, `host:port`, `[IPv6]:port` or an IPv6 address over `base`.

    Raises:
        UsageError: the text has another form, or the port is not one.
    """
    found = _BROKER.match(text)
    try:
        if not found:
            raise ValueError("a broker is a name or an address, and a port after a colon")
        host = found["v6"] or found["bare"] or found["host"]
        port = int(found["port"] or base.port)
        return msgspec.convert(
            msgspec.structs.asdict(base) | {"host": host, "port": port}, BrokerConfig
        )
    except ValueError as error:  # a ValidationError is one
        raise UsageError(
            f"{text!r} is not a broker", str(error), "write host:port or [IPv6]:port"
        ) from None


def find_or_bare(start: Path | None, *, broker: str | None) -> Project:
    """The project, or one without a file where there is none and a broker is named.

    Args:
        start: as for `find`.
        broker: that a flag names; `EDGEKIT_BROKER` counts too.

    Raises:
        UsageError: there is none and no broker is named, or its file is wrong.
    """
    named = broker or os.environ.get("EDGEKIT_BROKER")
    folder = Path.cwd()
    if named and start is None and not any((f / FILE).is_file() for f in (folder, *folder.parents)):
        return Project(folder, ProjectConfig())
    return find(start)


def find(start: Path | None) -> Project:
    """The project of `start` (default: the working folder) or of a folder above it.

    Raises:
        UsageError: there is none, or its file is wrong.
    """
    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *(() if start else folder.parents)):
        path = candidate / FILE
        if path.is_file():
            table, text = read_table(path.read_bytes(), str(path))
            return Project(candidate, convert(table, ProjectConfig, str(path), text))
        if path.is_dir():
            raise UsageError(f"{path} is a folder, not a file", next_step="move it away")
    raise UsageError(
        f"there is no {FILE} in {folder}" + ("" if start else " or above it"),
        next_step=f"name another folder, or make a project: `edgekit init {start}`"
        if start
        else "`edgekit init` makes a project here",
    )
