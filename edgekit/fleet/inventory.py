"""`fleet.toml`: the devices, how to reach them, and what each is told. Unknown keys are errors."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edgekit.core.config import (
    DRAIN_SECONDS,
    MAX_MESSAGES,
    QUEUE_LIMIT,
    REQUESTER_LIMIT,
    TRIAL_SECONDS,
    BrokerConfig,
    check_name,
)
from edgekit.errors import UsageError


class BrokerValues(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What devices are told of `[broker]` where it differs from edgekit.toml.

    In a text `{device}` is the device's name: each has an identity of its own.
    """

    host: str | None = None  # this and the rest as in `BrokerConfig`
    port: int | None = None
    username: str | None = None
    password_file: str | None = None
    keepalive_seconds: int | None = None
    tls: bool | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    crl_file: str | None = None


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device.

    `address` is `local:FOLDER` (a folder that plays a device, relative to `fleet.toml`) or
    `ssh:HOST`, where HOST is `[user@]host[:port]` or a Host of `~/.ssh/config`.
    """

    address: str
    root: str = ""  # on the device; empty: ~/.local/share/edgekit, for local: the folder itself
    python: str = "python3"
    tags: list[str] = []
    threads: int = 0
    pools: list[str] = []  # whose prompts the device takes, besides its own
    slots: int = 0  # this and the next eleven as in `AgentConfig`
    batching: bool = False
    max_beams: int = 1
    logits_processors: str = ""  # the folder is the device's; a push does not carry it
    queue_limit: int = QUEUE_LIMIT
    requester_limit: int = REQUESTER_LIMIT
    requests_per_minute: int = 0
    max_messages: int = MAX_MESSAGES
    max_prompt_tokens: int = 0
    max_answer_tokens: int = 0
    metrics_port: int = 0
    drain_seconds: float = DRAIN_SECONDS
    trial_seconds: float = (
        TRIAL_SECONDS  # for a new release to load and answer, before it goes back
    )
    broker: BrokerValues = BrokerValues()  # of this device alone, over the file's [broker]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    devices: dict[str, Device] = {}
    groups: dict[str, list[str]] = {}
    broker: BrokerValues = BrokerValues()


class Fleet(msgspec.Struct, frozen=True):
    """All devices of a project, by name."""

    devices: dict[str, Device]
    groups: dict[str, list[str]]
    folder: Path
    broker: BrokerValues = BrokerValues()

    def broker_of(self, name: str, base: BrokerConfig) -> BrokerConfig:
        """The broker as a device is told of it: the device's values, the file's, then `base`.

        Raises:
            UsageError: together they are wrong, as a certificate without a key is.
        """
        told = msgspec.structs.asdict(base)
        for values in (self.broker, self.devices[name].broker):
            for key, value in msgspec.structs.asdict(values).items():
                if value is not None:
                    text = isinstance(value, str)
                    told[key] = value.replace("{device}", name) if text else value
        try:
            return BrokerConfig(**told)
        except ValueError as error:
            raise UsageError(
                f"the [broker] of {name} is not valid", str(error), "fleet.toml or edgekit.toml"
            ) from error

    def select(self, names: list[str]) -> list[str]:
        """Device names from names of devices and groups; no names mean all devices.

        Raises:
            UsageError: a name is neither.
        """
        chosen: dict[str, None] = {}
        for name in names or list(self.devices):
            if name in self.groups:
                chosen.update(dict.fromkeys(self.groups[name]))
            elif name in self.devices:
                chosen[name] = None
            else:
                known = ", ".join([*self.devices, *self.groups]) or "nothing"
                raise UsageError(
                    f"there is no device or group {name!r}",
                    f"fleet.toml has {known}",
                    "add it to fleet.toml",
                )
        return list(chosen)


def load(path: Path) -> Fleet:
    """Read `fleet.toml`.

    Raises:
        UsageError: missing, not TOML, an unknown key, a bad name or address.
    """
    try:
        file = msgspec.toml.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist", next_step="`edgekit init` writes one") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid", str(error)) from error
    for name, device in file.devices.items():
        check_name("device", name)
        for pool in device.pools:
            check_name("pool", pool)
        kind, _, rest = device.address.partition(":")
        if kind not in ("local", "ssh") or not rest:
            raise UsageError(
                f"{path}: the address of {name} is {device.address!r}",
                "an address is local:FOLDER or ssh:[user@]host[:port]",
            )
    for group, members in file.groups.items():
        check_name("group", group)
        for name in members:
            if name not in file.devices:
                raise UsageError(f"{path}: group {group} names {name!r}, which is no device")
    return Fleet(file.devices, file.groups, path.resolve().parent, file.broker)


def local_folder(fleet: Fleet, device: Device) -> Path:
    """The folder of a `local:` device."""
    return Path(os.path.normpath(fleet.folder / device.address.removeprefix("local:")))
