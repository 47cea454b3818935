"""What an enrolment knows of a device, what it is asked for, and the steps that it decides on."""

from __future__ import annotations

import base64
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

import msgspec

from edgekit.core import layout
from edgekit.errors import EdgekitError

AGENT_ACCOUNT = "edgekit"  # owns ROOT of a system install and runs its agent
PUSH_ACCOUNT = "edgekit-push"  # takes pushes there, and owns nothing
SYSTEM_ROOT = PurePosixPath("/var/lib/edgekit")
SYSTEM_FOLDER = PurePosixPath("/etc/edgekit")  # root's own; no agent can change what is in it
DOOR = PurePosixPath("/usr/local/lib/edgekit/edgekit-door")
SYSTEM_UNITS = PurePosixPath("/etc/systemd/system")
USER_UNITS = PurePosixPath(".config/systemd/user")  # below the home
SERVICE = "edgekit-agent.service"
BROKER_FOLDER = layout.ETC / "broker"


class Starts(Enum):
    """What starts the agent after a reboot: the words of `ROOT/etc/supervisor`."""

    SYSTEM = "systemd-system"
    USER = "systemd-user"
    CRON = "cron"
    NOTHING = "detached"

    @property
    def words(self) -> str:
        """For `state` and `enroll`."""
        return {
            Starts.SYSTEM: "by systemd (system unit), also after a reboot",
            Starts.USER: "by systemd (user unit with linger), also after a reboot",
            Starts.CRON: "by cron (@reboot), also after a reboot",
            Starts.NOTHING: "by a push alone: it will not come back after a reboot",
        }[self]


def starts_words(word: str) -> str:
    """What a word of `ROOT/etc/supervisor` means, for `state`; an unknown one is said as it is."""
    return Starts(word).words if word in {one.value for one in Starts} else word


class LocalAccount(msgspec.Struct, frozen=True):
    """An account of the device."""

    uid: int
    home: str
    shell: str


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What `look.py` prints; each `no_...` says why something does not work, empty if it does."""

    user: str
    uid: int
    home: str
    has_sudo: bool
    no_sudo: str
    no_systemd: str
    no_user_systemd: str
    linger: bool
    no_crontab: str
    crontab: str
    cron_runs: bool
    accounts: dict[str, LocalAccount | None]
    no_useradd: str
    no_openssl: str
    record: str
    root_is_link: bool
    root_owner: str
    has_release: bool
    has_door: bool
    account_home: str
    parts: dict[str, int]

    @property
    def made(self) -> MadeRecord | None:
        """The record of an enrolment, finished or not.

        Raises:
            EdgekitError: it cannot be read.
        """
        if not self.record:
            return None
        try:
            return msgspec.json.decode(self.record, type=MadeRecord)
        except msgspec.MsgspecError as error:
            raise EdgekitError(
                "the device's record of its enrolment cannot be read",
                str(error),
                f"look at {SYSTEM_FOLDER} or at etc/ of its root by hand",
            ) from error


class MadeRecord(msgspec.Struct, frozen=True):
    """What an enrolment made, in the order in which it did."""

    made: list[tuple[str, str]]
    device: str = ""
    root: str = ""
    system: bool = False

    def names(self, kind: str) -> list[str]:
        """What of one kind it made."""
        return [name for made, name in self.made if made == kind]


class Step(msgspec.Struct, frozen=True):
    """One effect on a device: a name of `make.py` or `unmake.py`, its arguments, and words."""

    do: str
    words: str
    values: dict[str, Any] = {}

    def to_wire(self) -> dict[str, Any]:
        """As `perform.py` reads it."""
        return {"do": self.do, **self.values}


class EnrollPlan(msgspec.Struct, frozen=True):
    """The steps of an enrolment or a removal, and how the device starts after them."""

    steps: tuple[Step, ...]
    starts: Starts
    record: str
    notes: tuple[str, ...] = ()


class Carried(msgspec.Struct, frozen=True):
    """A file for the device: its name below ROOT, its bytes; `keep` leaves JSON that is there."""

    name: PurePosixPath
    data: bytes
    keep: bool = False


class Bootstrap(msgspec.Struct, frozen=True):
    """The tar of an agent that can stage a release: its name, its size, where it lies there."""

    name: str
    size: int
    source: str


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of an enrolment.

    Attributes:
        root: absolute path of ROOT on the device.
        python: absolute path of the device's Python.
        system: whether it is a system install.
        units: the files of `deploy/systemd` by name.
        push_key: the public key that may push to a system install.
        door: the text of `deploy/door/edgekit-door`.
        bootstrap: the agent of a first contact, which a system install takes here alone.
        files: what is carried into ROOT.
        make_key: whether the device makes its broker key itself.
    """

    device: str
    root: PurePosixPath
    python: str
    system: bool
    units: dict[str, str]
    push_key: str = ""
    door: str = ""
    bootstrap: Bootstrap | None = None
    files: tuple[Carried, ...] = ()
    make_key: bool = False


def folder(path: PurePosixPath, mode: int, owner: str = "", account_of: str = "") -> Step:
    """Make a folder; `account_of` does it as that account."""
    values = {"path": str(path), "mode": mode, "owner": owner, "account_of": account_of}
    whose = f" of {owner or account_of}" if owner or account_of else ""
    return Step("folder", f"folder {path}{whose}", values)


def file(
    path: PurePosixPath, data: bytes, mode: int, account_of: str = "", *, keep: bool = False
) -> Step:
    """Write a file, unless it has these bytes."""
    content = base64.b64encode(data).decode()
    values = {
        "path": str(path),
        "content": content,
        "mode": mode,
        "account_of": account_of,
        "keep": keep,
    }
    return Step("file", f"file {path}", values)
