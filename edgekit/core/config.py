"""What a device is told about itself: `etc/agent.toml`, written by a push, never in a release."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import PurePath
from typing import Any

import msgspec

from edgekit.errors import UsageError

QUEUE_LIMIT = 8
REQUESTER_LIMIT = 4
MAX_MESSAGES = 1024  # of a prompt, on any device
DRAIN_SECONDS = 30.0
TRIAL_SECONDS = 120.0  # from the start of the agent to its first answer, model load included
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
NAME_RULE = "1 to 64 letters, digits, '_', '.' and '-'"


def check_name(kind: str, text: str) -> str:
    """A device, requester or bundle name: one MQTT topic level, safe as a file name.

    Raises:
        UsageError: anything but 1 to 64 letters, digits, `_`, `.` and `-`.
    """
    if not NAME.match(text) or text in (".", ".."):
        raise UsageError(
            f"{text!r} cannot be a {kind}'s name",
            f"a name is {NAME_RULE} (it is one MQTT topic level)",
        )
    return text


_FACTORY = re.compile(r"(?:(/(?:[^/:]+/)*))?([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)\Z")


def factory_of(text: str) -> tuple[str, str, str]:
    """Folder, module and function of `[/FOLDER/]package.module:factory`.

    Raises:
        ValueError: it is none.
    """
    found = _FACTORY.match(text)
    if not found:
        raise ValueError(f"logits_processors {text!r} is not [/FOLDER/]package.module:factory")
    folder, module, name = found.groups(default="")
    return folder[:-1], module, name


BROKER_FILES = ("password_file", "ca_file", "cert_file", "key_file", "crl_file")
TLS_FILES = BROKER_FILES[1:]


class BrokerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the MQTT 5 broker is, and how both ends show who they are. Paths are absolute."""

    host: str = "127.0.0.1"
    port: int = 1883
    username: str = ""
    password_file: str = ""
    keepalive_seconds: int = 30
    tls: bool = False  # 1.2 or newer; the broker's name is always checked
    ca_file: str = ""  # who may have signed the broker's certificate; empty: the system's CAs
    cert_file: str = ""  # our own certificate, with those between it and its CA; and its key
    key_file: str = ""
    crl_file: str = ""  # the CA's list of revoked certificates; empty: it is not asked

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 1 and 65535")
        for name in BROKER_FILES:
            path = getattr(self, name)
            if path and not PurePath(path).is_absolute():
                raise ValueError(f"{name} must be an absolute path")
            if path and name in TLS_FILES and not self.tls:
                raise ValueError(f"{name} needs tls = true")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file are given together or not at all")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def warning(self) -> str:
        """What is unsafe about it, or empty: without TLS a password is read on the network."""
        if not self.password_file or self.tls or _is_loopback(self.host):
            return ""
        return f"the password for the broker {self} goes in the clear: set tls = true in [broker]"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # a name: where it leads to is not known here


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may set for one device: a table of `fleet.toml`, then its `agent.toml`.

    A new setting is one line here, and a check below if it needs one. Its default is what devices
    did before there was it: agent.toml leaves a default out, and an older agent then reads it.
    For the same reason a default never changes.
    """

    threads: int = 0  # of the model worker; 0 measures at the first start what is fastest
    slots: int = 0  # prompts side by side; 0 takes what the free memory allows
    batching: bool = False  # one step for all of them, where the model's graph allows it
    max_beams: int = 1  # that a prompt's num_beams may ask for; 1 refuses beam search
    # Scoring of one's own: [/FOLDER/]package.module:factory. The folder is the device's; a push
    # does not carry it.
    logits_processors: str = ""
    pools: list[str] = []  # whose prompts this device takes, besides its own
    queue_limit: int = QUEUE_LIMIT  # prompts waiting, not counting those that run
    requester_limit: int = REQUESTER_LIMIT  # of them, prompts of one requester
    requests_per_minute: int = 0  # new prompts of one requester, and its repeats; 0: no limit
    max_messages: int = MAX_MESSAGES  # of one prompt
    max_prompt_tokens: int = 0  # of one prompt; 0: what its context holds
    max_answer_tokens: int = 0  # of one answer; 0, or more than the bundle's: the bundle's
    drain_seconds: float = DRAIN_SECONDS  # how long SIGTERM lets the running prompt go on
    trial_seconds: float = TRIAL_SECONDS  # for a new release to answer, before the old one is back
    metrics_port: int = 0  # of loopback, for Prometheus; 0 serves none

    def __post_init__(self) -> None:
        if not 0 <= self.metrics_port <= 65535:
            raise ValueError(f"metrics_port {self.metrics_port} is not between 0 and 65535")
        if self.trial_seconds <= 0:
            raise ValueError("trial_seconds must be above 0")
        for name in ("requests_per_minute", "max_prompt_tokens", "max_answer_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more")
        if not 1 <= self.max_messages <= MAX_MESSAGES:
            raise ValueError(f"max_messages must be 1 to {MAX_MESSAGES}")
        if self.logits_processors:
            factory_of(self.logits_processors)
        for pool in self.pools:
            if not NAME.match(pool):
                raise ValueError(f"pool {pool!r} is not a name: {NAME_RULE}")


class AgentConfig(DeviceSettings, frozen=True, forbid_unknown_fields=True):
    """One device's agent: its name, its broker and its settings."""

    device: str
    broker: BrokerConfig = BrokerConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not NAME.match(self.device):
            raise ValueError(f"device {self.device!r} is not a name")


def agent_config(device: str, broker: BrokerConfig, settings: DeviceSettings) -> AgentConfig:
    """What a device is told, given its settings (or a type that has them)."""
    told = {name: getattr(settings, name) for name in DeviceSettings.__struct_fields__}
    return AgentConfig(device, broker, **told)


def encode_agent_config(config: AgentConfig) -> bytes:
    """The bytes of `agent.toml`: what differs from the defaults, the device's name always."""
    return msgspec.toml.encode(_told(config))


def parse_agent_config(data: bytes) -> AgentConfig:
    """Raises: UsageError naming the unknown or wrong key."""
    try:
        return msgspec.toml.decode(data, type=AgentConfig)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError("agent.toml is not valid", str(error)) from error


def parse_known_agent_config(data: bytes) -> AgentConfig:
    """What this agent knows of an `agent.toml` that may be meant for a newer one.

    For an activation, which needs the times alone and runs in the agent of before: a key that it
    does not know is left to the release's own agent, which reads the whole file in its trial.

    Raises:
        UsageError: no TOML, or a key that is known has a wrong value; names it.
    """
    try:
        table = msgspec.toml.decode(data, type=dict[str, Any])
        known = _only(table, AgentConfig)
        if isinstance(known.get("broker"), dict):
            known["broker"] = _only(known["broker"], BrokerConfig)
        return msgspec.convert(known, AgentConfig)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError("agent.toml is not valid", str(error)) from error


def _only(table: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name in kind.__struct_fields__}


def known_settings() -> frozenset[str]:
    """Every key of agent.toml that this agent reads, those of its broker as `broker.KEY`."""
    return _keys(AgentConfig.__struct_fields__, BrokerConfig.__struct_fields__)


def settings_in(data: bytes) -> frozenset[str]:
    """The keys of an agent.toml, whether this agent knows them or not; those of its broker as
    `broker.KEY`.

    Raises:
        UsageError: it is no TOML.
    """
    try:
        table = msgspec.toml.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError("agent.toml is not valid", str(error)) from error
    broker = table.get("broker")
    return _keys(table, broker if isinstance(broker, dict) else ())


def used_settings(config: AgentConfig) -> frozenset[str]:
    """The keys that `config`'s agent.toml holds, those of its broker as `broker.KEY`."""
    told = _told(config)
    return _keys(told, told.get("broker", {}))


def _keys(own: Iterable[str], broker: Iterable[str]) -> frozenset[str]:
    return frozenset((*own, *(f"broker.{name}" for name in broker)))


# The keys that every agent knows which does not say so: bundles say it since the commit after
# c9e86d5, and an agent of then or before refuses a file with any other. Never add to it.
FIRST_SETTINGS = frozenset(
    (
        *("device", "broker", "threads", "slots", "batching", "max_beams", "logits_processors"),
        *("pools", "queue_limit", "requester_limit", "requests_per_minute", "max_messages"),
        *("max_prompt_tokens", "max_answer_tokens", "drain_seconds", "trial_seconds"),
        *("metrics_port", "broker.host", "broker.port", "broker.username", "broker.password_file"),
        *("broker.keepalive_seconds", "broker.tls", "broker.ca_file", "broker.cert_file"),
        *("broker.key_file", "broker.crl_file"),
    )
)


def _told(struct: msgspec.Struct) -> dict[str, Any]:
    """The values that differ from their defaults, tables of a table likewise."""
    told = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        factory = field.default_factory
        if value != (field.default if factory is msgspec.NODEFAULT else factory()):
            told[field.name] = _told(value) if isinstance(value, msgspec.Struct) else value
    return told
