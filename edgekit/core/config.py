"""What a device is told about itself: `etc/agent.toml`, written by a push, never in a release."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import PurePath

import msgspec

from edgekit.errors import UsageError

QUEUE_LIMIT = 8
REQUESTER_LIMIT = 4
MAX_MESSAGES = 1024  # of a prompt, on any device
DRAIN_SECONDS = 30.0
TRIAL_SECONDS = 120.0  # from the start of the agent to its first answer, model load included
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


def check_name(kind: str, text: str) -> str:
    """A device, requester or bundle name: one MQTT topic level, safe as a file name.

    Raises:
        UsageError: anything but 1 to 64 letters, digits, `_`, `.` and `-`.
    """
    if not NAME.match(text) or text in (".", ".."):
        raise UsageError(
            f"{text!r} cannot be a {kind}'s name",
            "a name is 1 to 64 letters, digits, '_', '.' and '-' (it is one MQTT topic level)",
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


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device's agent: who it is, its broker, and its bounds."""

    device: str
    broker: BrokerConfig = BrokerConfig()
    threads: int = 0  # of the model worker; 0 measures at the first start what is fastest
    slots: int = 0  # prompts side by side; 0 takes what the free memory allows
    batching: bool = False  # one step for all of them, where the model's graph allows it
    max_beams: int = 1  # that a prompt's num_beams may ask for; 1 refuses beam search
    logits_processors: str = ""  # scoring of one's own: [/FOLDER/]package.module:factory
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
        if not NAME.match(self.device):
            raise ValueError(f"device {self.device!r} is not a name")
        if self.logits_processors:
            factory_of(self.logits_processors)
        for pool in self.pools:
            if not NAME.match(pool):
                raise ValueError(f"pool {pool!r} is not a name")


def parse_agent_config(data: bytes) -> AgentConfig:
    """Raises: UsageError naming the unknown or wrong key."""
    try:
        return msgspec.toml.decode(data, type=AgentConfig)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError("agent.toml is not valid", str(error)) from error
