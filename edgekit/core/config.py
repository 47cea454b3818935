"""A device's configuration, `etc/agent.toml`: a push writes it, a release never holds it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address
from pathlib import PurePath
from typing import Any

import msgspec

from edgekit.core.pictures import MAX_CROPS, MOST_PER_PROMPT
from edgekit.core.registry import is_loopback, parse_registry
from edgekit.core.rules.rule import Rule, check_places
from edgekit.errors import UsageError

QUEUE_LIMIT = 8
REQUESTER_LIMIT = 4
MAX_MESSAGES = 1024  # of a prompt, on any device
DRAIN_SECONDS = 30.0
TRIAL_SECONDS = 120.0  # from the start of the agent to its first answer, model load included
MOST_SECONDS = 86400.0  # of a wait that an operator may set
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
NAME_RULE = "1 to 64 letters, digits, '_', '.' and '-'"


def check_name(kind: str, text: str) -> str:
    """Check the name of a device, requester or bundle: one MQTT topic level, safe as a file name.

    Raises:
        UsageError: it is not 1 to 64 letters, digits, `_`, `.` and `-`.
    """
    if not NAME.match(text) or text in (".", ".."):
        raise UsageError(
            f"{text!r} cannot be a {kind}'s name",
            f"a name is {NAME_RULE} (it is one MQTT topic level)",
            "choose another one",
        )
    return text


_FACTORY = re.compile(r"(?:(/(?:[^/:]+/)*))?([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)\Z")


def factory_of(text: str) -> tuple[str, str, str]:
    """Folder, module and function of `[/FOLDER/]package.module:factory`.

    Raises:
        ValueError: the text does not have this form.
    """
    found = _FACTORY.match(text)
    if not found:
        raise ValueError(f"logits_processors {text!r} is not [/FOLDER/]package.module:factory")
    folder, module, name = found.groups(default="")
    return folder[:-1], module, name


_HOST = re.compile(r"[^\s\x00-\x1f\x7f@\[\]]+\Z")
BROKER_FILES = ("password_file", "ca_file", "cert_file", "key_file", "crl_file")
TLS_FILES = BROKER_FILES[1:]


def _is_host(text: str) -> bool:
    """Whether a broker can be at this name or address: no URL, no port behind it."""
    if ":" not in text:
        return bool(_HOST.match(text))
    try:
        return IPv6Address(text).version == 6
    except ValueError:
        return False


class BrokerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The MQTT 5 broker's address and the credentials of both ends. Paths are absolute."""

    host: str = "127.0.0.1"
    port: int = 1883
    username: str = ""
    password_file: str = ""
    keepalive_seconds: int = 30
    tls: bool = False  # 1.2 or newer; the client always checks the broker's name
    ca_file: str = ""  # CAs that may sign the broker's certificate; empty: the system's CAs
    cert_file: str = ""  # the client's certificate, then those between it and its CA
    key_file: str = ""  # the private key of cert_file
    crl_file: str = ""  # the CA's list of revoked certificates; empty: no check

    def __post_init__(self) -> None:
        if not _is_host(self.host):
            raise ValueError(
                f"host {self.host!r} is no name and no address: port and tls are keys of their own"
            )
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 1 and 65535")
        if not 0 <= self.keepalive_seconds <= 65535:
            raise ValueError(f"keepalive_seconds {self.keepalive_seconds} is not 0 to 65535")
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
        """A warning when a password would cross the network without TLS; else empty."""
        if not self.password_file or self.tls or is_loopback(self.host):
            return ""
        return f"the password for the broker {self} goes in the clear: set tls = true in [broker]"


class PullConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From where a device pulls releases, and which groups' desired state it follows.

    Paths are those of the device, and absolute. Without a registry the device does not pull.
    """

    registry: str = ""  # [https://]HOST[:PORT]/REPOSITORY
    username: str = ""
    password_file: str = ""
    ca_file: str = ""  # CAs that may sign the registry's certificate; empty: the system's CAs
    plain_http: bool = False  # http for another host than this one
    groups: list[str] = []  # in this order; the device's own desired state comes first
    mbit_per_second: float = 0.0  # at most; 0: no limit

    def __post_init__(self) -> None:
        if self.registry:
            parse_registry(self.registry, plain_http=self.plain_http)
        for name in ("password_file", "ca_file"):
            if getattr(self, name) and not PurePath(getattr(self, name)).is_absolute():
                raise ValueError(f"{name} must be an absolute path")
        for group in self.groups:
            if not NAME.match(group):
                raise ValueError(f"group {group!r} is not a name: {NAME_RULE}")
        if not 0 <= self.mbit_per_second <= 1e6:
            raise ValueError("mbit_per_second is 0 to 1000000")


_COUNTS = (
    *("threads", "slots", "queue_limit", "requester_limit", "requests_per_minute"),
    *("max_prompt_tokens", "max_answer_tokens", "min_tokens_per_second", "max_rss_bytes"),
    *("canary_samples", "image_crops", "images_per_prompt"),
)


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one device: a table of `fleet.toml` that a push writes into `agent.toml`.

    A new setting is one line here, and a check below if it needs one. Its default is the behaviour
    of devices before the setting existed. agent.toml leaves defaults out, which lets an older agent
    read the file. For the same reason a default never changes.
    """

    threads: int = 0  # of the worker; 0: the worker measures the fastest number at its first start
    slots: int = 0  # prompts side by side; 0: as many as the free memory allows
    batching: bool = False  # one model step for all slots, where the model's graph allows it
    max_beams: int = 1  # highest num_beams of a prompt; 1 refuses beam search
    # The operator's own scoring code: [/FOLDER/]package.module:factory. The folder lies on the
    # device; a push does not copy it.
    logits_processors: str = ""
    pools: list[str] = []  # the device takes their prompts besides its own
    queue_limit: int = QUEUE_LIMIT  # waiting prompts, without the running ones
    requester_limit: int = REQUESTER_LIMIT  # waiting prompts of one requester
    requests_per_minute: int = 0  # of a requester: new prompts, and also repeats; 0: no limit
    max_messages: int = MAX_MESSAGES  # of one prompt
    max_prompt_tokens: int = 0  # of one prompt; 0: the context is the limit
    max_answer_tokens: int = 0  # of one answer; 0 or above the bundle's limit: the bundle's limit
    drain_seconds: float = DRAIN_SECONDS  # after SIGTERM, running prompts may take this long
    trial_seconds: float = TRIAL_SECONDS  # a new release has this long to answer before a rollback
    min_tokens_per_second: float = 0.0  # a new release below it fails its trial
    max_rss_bytes: int = 0  # of agent and worker in a trial; 0: what the bundle says that it needs
    metrics_port: int = 0  # on loopback, for Prometheus; 0: no exporter
    canary_samples: int = 0  # ended prompts kept in memory as tokens, for the next release; 0: none
    image_crops: int = 0  # of one picture, at most 16; 0: 1 below 8 GB of memory, else 4
    images_per_prompt: int = 0  # of all its messages; 0: 2, and one in a message
    home_assistant: bool = False  # the agent shows the device there, by MQTT discovery
    rules: dict[str, Rule] = {}  # by name: messages that become prompts without a client

    def __post_init__(self) -> None:
        if not 0 <= self.metrics_port <= 65535:
            raise ValueError(f"metrics_port {self.metrics_port} is not between 0 and 65535")
        if not 0 < self.trial_seconds <= MOST_SECONDS:
            raise ValueError(f"trial_seconds must be above 0 and at most {MOST_SECONDS:g}")
        if not 0 <= self.drain_seconds <= MOST_SECONDS:
            raise ValueError(f"drain_seconds must be 0 to {MOST_SECONDS:g}")
        for name in _COUNTS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more")
        if self.max_beams < 1:
            raise ValueError("max_beams must be 1 or more")
        if self.image_crops > MAX_CROPS:
            raise ValueError(f"image_crops must be 0 to {MAX_CROPS}")
        if self.images_per_prompt > MOST_PER_PROMPT:
            raise ValueError(f"images_per_prompt must be 0 to {MOST_PER_PROMPT}")
        if not 1 <= self.max_messages <= MAX_MESSAGES:
            raise ValueError(f"max_messages must be 1 to {MAX_MESSAGES}")
        if self.logits_processors:
            factory_of(self.logits_processors)
        for pool in self.pools:
            if not NAME.match(pool):
                raise ValueError(f"pool {pool!r} is not a name: {NAME_RULE}")
        for rule in self.rules:
            if not NAME.match(rule):
                raise ValueError(f"rule {rule!r} is not a name: {NAME_RULE}")


class AgentConfig(DeviceSettings, frozen=True, forbid_unknown_fields=True):
    """One device's agent: its name, its broker and its settings."""

    device: str
    broker: BrokerConfig = BrokerConfig()
    pull: PullConfig = PullConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not NAME.match(self.device):
            raise ValueError(f"device {self.device!r} is not a name")
        check_places(self.rules, self.device)


def agent_config(
    device: str,
    broker: BrokerConfig,
    settings: DeviceSettings,
    pull: PullConfig = PullConfig(),  # noqa: B008  it is frozen
) -> AgentConfig:
    """Build a device's configuration from its settings (or from a type that has them)."""
    told = {name: getattr(settings, name) for name in DeviceSettings.__struct_fields__}
    told["rules"] = {name: rule.on(device) for name, rule in settings.rules.items()}
    return AgentConfig(device, broker, pull, **told)


def encode_agent_config(config: AgentConfig) -> bytes:
    """Encode `agent.toml`: the device's name, and the values that differ from their defaults."""
    return msgspec.toml.encode(_told(config))


def parse_agent_config(data: bytes) -> AgentConfig:
    """Decode `agent.toml`; raises UsageError that names the unknown or wrong key."""
    try:
        return msgspec.toml.decode(data, type=AgentConfig)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError(
            "agent.toml is not valid", str(error), next_step="push again: a push writes the file"
        ) from error


def parse_known_agent_config(data: bytes) -> AgentConfig:
    """Decode the keys that this agent knows of an `agent.toml` that a newer agent may need.

    The old release's agent activates a new one and needs only the timeouts. It leaves unknown
    keys to the agent of the new release, which reads the whole file in its trial.

    Raises:
        UsageError: the bytes are no TOML, or a known key has a wrong value; names the key.
    """
    known = _only(_table(data), AgentConfig)
    for name, kind in _TABLES.items():
        if isinstance(known.get(name), dict):
            known[name] = _only(known[name], kind)
    for name, kind in _NAMED_TABLES.items():
        if isinstance(named := known.get(name), dict):
            known[name] = {
                each: _only(table, kind) if isinstance(table, dict) else table
                for each, table in named.items()
            }
    try:
        return msgspec.convert(known, AgentConfig)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError(
            "agent.toml is not valid", str(error), next_step="push again: a push writes the file"
        ) from error


def _table(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.toml.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError(
            "agent.toml is not valid", str(error), next_step="push again: a push writes the file"
        ) from error


def _only(table: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name in kind.__struct_fields__}


_TABLES: dict[str, type[msgspec.Struct]] = {"broker": BrokerConfig, "pull": PullConfig}
_NAMED_TABLES: dict[str, type[msgspec.Struct]] = {"rules": Rule}  # a table of tables by name


def known_settings() -> frozenset[str]:
    """Every key of agent.toml that this agent reads; those of its tables are `broker.KEY`, those of
    each rule `rules.KEY`."""
    tables: dict[str, Any] = {name: kind.__struct_fields__ for name, kind in _TABLES.items()}
    tables |= {name: {"": kind.__struct_fields__} for name, kind in _NAMED_TABLES.items()}
    return _keys(AgentConfig.__struct_fields__, tables)


def settings_in(data: bytes) -> frozenset[str]:
    """The keys of an agent.toml, whether this agent knows them or not; those of its tables as
    `broker.KEY`.

    Raises:
        UsageError: it is no TOML.
    """
    table = _table(data)
    return _keys(table, table)


def used_settings(config: AgentConfig) -> frozenset[str]:
    """The keys that `config`'s agent.toml holds; those of its tables are `broker.KEY`."""
    told = _told(config)
    return _keys(told, told)


def _keys(own: Iterable[str], tables: Mapping[str, Any]) -> frozenset[str]:
    found = set(own)
    for table in _TABLES:
        if isinstance(names := tables.get(table), dict | tuple):
            found |= {f"{table}.{name}" for name in names}
    for table in _NAMED_TABLES:
        if isinstance(named := tables.get(table), dict):
            inner = (each for each in named.values() if isinstance(each, dict | tuple))
            found |= {f"{table}.{name}" for each in inner for name in each}
    return frozenset(found)


# Bundles list the keys that their agent knows since the commit after c9e86d5. An older agent knows
# exactly these keys and refuses a file with any other. Never add to this set.
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
    """The values that differ from their defaults, also within nested tables."""
    told = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        factory = field.default_factory
        if value != (field.default if factory is msgspec.NODEFAULT else factory()):
            told[field.name] = _plain(value)
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _told(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value
