"""The files of a Mosquitto that serves a fleet: configuration, accounts and their rights. Pure.

mosquitto.conf(5) describes the first three files, the README of Mosquitto's dynamic-security plugin
the last. This module states the rights of an account twice: as an ACL file, and as roles.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from edgekit.core.config import check_name
from edgekit.core.protocol import topics
from edgekit.core.protocol.discovery import object_id
from edgekit.core.rules.rule import OUTPUTS, Rule
from edgekit.errors import UsageError

CONFIG_FILE = "mosquitto.conf"
ACL_FILE = "acl"
PASSWORD_FILE = "passwd"  # noqa: S105  the file's name
DYNAMIC_SECURITY_FILE = "dynamic-security.json"

SALT_BYTES = 12  # Mosquitto 2.0 takes no other length
HASH_ROUNDS = 101  # Mosquitto's own; it suffices, because our passwords are random
MAX_PACKET_BYTES = 1 << 20  # bounds the longest answer; a prompt with pictures is smaller
MAX_QUEUED_MESSAGES = 1000  # for each client that does not read; MAX_QUEUED_BYTES holds too
MAX_QUEUED_BYTES = 32 << 20
MAX_INFLIGHT_MESSAGES = 20

# What an operator writes: desired states, and what shows devices in Home Assistant. It reads what
# has come of both.
_DISCOVERY = topics.discovery_topic("+")
_ORDERED = (topics.desired_topic("+"), topics.group_desired_topic("+"), _DISCOVERY)
_REPORTED = (topics.update_topic("+"), _DISCOVERY)
_READABLE = (topics.card_topic("+"), topics.status_topic("+"), topics.metrics_topic("+"))


class RuleTopics(msgspec.Struct, frozen=True):
    """What the rules of one device hear, and the topics of their answers; each once."""

    heard: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    @classmethod
    def of(cls, device: str, rules: Mapping[str, Rule]) -> RuleTopics:
        """The topics of the rules that a device has in a fleet."""
        on = {name: rule.on(device) for name, rule in rules.items()}
        heard = dict.fromkeys(rule.topic_filter for rule in on.values())
        said = dict.fromkeys(rule.output(device, name) for name, rule in on.items())
        return cls(tuple(heard), tuple(said))


class BrokerSetup(msgspec.Struct, frozen=True, kw_only=True):
    """A broker with its devices and requesters; paths are those of the broker's machine."""

    devices: dict[str, tuple[str, ...]]  # each with its pools
    requesters: tuple[str, ...]
    operators: tuple[str, ...] = ()  # say what devices that pull shall run
    gateways: tuple[str, ...] = ()  # ask under the name of each of the requesters
    groups: dict[str, tuple[str, ...]] = {}  # of each device that pulls
    rules: dict[str, RuleTopics] = {}  # of each device that has some
    shown: tuple[str, ...] = ()  # devices that show themselves in Home Assistant
    folder: str  # of the files that this module makes
    data: str
    cert_file: str
    key_file: str
    ca_file: str
    crl_file: str = ""
    host: str = ""  # to listen on; empty: every address
    port: int = 8883
    password_port: int = 8884  # 0: certificates only
    plugin: str = ""  # path of the dynamic-security plugin; empty: an ACL file
    bind_client_ids: bool = False  # to accounts: each account then has one connection at a time

    def __post_init__(self) -> None:
        if self.port == self.password_port:
            raise UsageError(
                f"two listeners cannot have the port {self.port}",
                "clients with a certificate and clients with a password come to ports of their own",
                "choose another --port or --password-port, or --password-port 0 for no passwords",
            )
        for name in ("folder", "data", "cert_file", "key_file", "ca_file", "crl_file", "plugin"):
            if not getattr(self, name).isprintable():
                raise UsageError(
                    f"{getattr(self, name)!r} cannot stand in {CONFIG_FILE}",
                    "each line of that file is one setting",
                    "choose another path",
                )


class Account(msgspec.Struct, frozen=True):
    """A user name with its password and the salt of the stored hash."""

    name: str
    password: str
    salt: bytes

    @property
    def hashed(self) -> str:
        """PBKDF2 with SHA-512, in base64."""
        secret = self.password.encode()
        return _base64(hashlib.pbkdf2_hmac("sha512", secret, self.salt, HASH_ROUNDS))


def operators(names: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    """Check the names of operators and remove repeats.

    Raises:
        UsageError: an operator cannot have this name, or a device or requester has it.
    """
    checked = tuple(dict.fromkeys(check_name("operator", name) for name in names))
    if both := sorted(set(checked) & set(taken)):
        raise UsageError(
            f"{', '.join(both)} cannot be an operator as well",
            "who says what devices run has an account for that alone",
            "give the operator another name",
        )
    return checked


def gateways(names: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    """Check the names of gateways and remove repeats.

    Raises:
        UsageError: a gateway cannot have this name, or a device, requester or operator has it.
    """
    checked = tuple(dict.fromkeys(check_name("gateway", name) for name in names))
    if both := sorted(set(checked) & set(taken)):
        raise UsageError(
            f"{', '.join(both)} cannot be a gateway as well",
            "a gateway's account asks for every requester, and so is nobody's own",
            "give the gateway another name",
        )
    return checked


def requesters(names: Sequence[str], devices: Collection[str]) -> tuple[str, ...]:
    """Check the names of requesters and remove repeats.

    Raises:
        UsageError: a requester cannot have this name, or a device has it.
    """
    checked = tuple(dict.fromkeys(check_name("requester", name) for name in names))
    if both := sorted(set(checked) & set(devices)):
        raise UsageError(
            f"{', '.join(both)} cannot be a device and a requester",
            "a device may not prompt, and a requester may not say that it is a device",
            "give the requester another name",
        )
    return checked


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def files(setup: BrokerSetup, accounts: Sequence[Account]) -> dict[str, tuple[bytes, int]]:
    """Make the broker's files: name -> bytes and mode. The configuration comes last."""
    if setup.plugin:
        made = {DYNAMIC_SECURITY_FILE: (dynamic_security(setup, accounts), 0o600)}
    else:
        made = {
            PASSWORD_FILE: (password_file(accounts).encode(), 0o600),
            ACL_FILE: (acl_file(setup).encode(), 0o644),
        }
    return made | {CONFIG_FILE: (configuration(setup).encode(), 0o644)}


def configuration(setup: BrokerSetup) -> str:
    """Make `mosquitto.conf`: a port for certificates and one for passwords, both with TLS."""
    if setup.plugin:
        who = [
            f"plugin {setup.plugin}",
            f"plugin_opt_config_file {setup.folder}/{DYNAMIC_SECURITY_FILE}",
        ]
    else:
        who = [
            f"acl_file {setup.folder}/{ACL_FILE}",
            f"password_file {setup.folder}/{PASSWORD_FILE}",
        ]
    shown = [f"certfile {setup.cert_file}", f"keyfile {setup.key_file}", "tls_version tlsv1.2"]
    if setup.bind_client_ids:
        shown.append("use_username_as_clientid true")
    lines = [
        "# Written by `edgekit broker acl`, which writes it again with --force.",
        "allow_anonymous false",
        *who,
        "",
        "set_tcp_nodelay true",
        f"max_packet_size {MAX_PACKET_BYTES}",
        f"max_queued_messages {MAX_QUEUED_MESSAGES}",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"max_inflight_messages {MAX_INFLIGHT_MESSAGES}",
        "persistence true",
        f"persistence_location {setup.data.rstrip('/')}/",
        "",
        "# The certificate's Common Name is the user name",
        f"listener {setup.port} {setup.host}".rstrip(),
        *shown,
        f"cafile {setup.ca_file}",
        *([f"crlfile {setup.crl_file}"] if setup.crl_file else []),
        "require_certificate true",
        "use_identity_as_username true",
    ]
    if setup.password_port:
        lines += ["", "# User name and password", f"listener {setup.password_port} {setup.host}"]
        lines[-1] = lines[-1].rstrip()
        lines += shown
    return "\n".join(lines) + "\n"


def password_file(accounts: Sequence[Account]) -> str:
    """Make the password file as `mosquitto_passwd` does: type 7 is PBKDF2 with SHA-512."""
    return "".join(
        f"{one.name}:$7${HASH_ROUNDS}${_base64(one.salt)}${one.hashed}\n" for one in accounts
    )


def acl_file(setup: BrokerSetup) -> str:
    """Make the ACL file: every account but a device's is a requester of its own name (`%u`).

    For a device, Mosquitto reads the `deny` lines before the patterns: it cannot prompt others.
    """
    lines = [
        "# A requester: the last level of what it asks, and the first of what it is answered, is",
        "# its user name.",
        f"pattern write {topics.PREFIX}/req/+/+/%u",
        f"pattern write {topics.PREFIX}/ctl/+/+/%u",
        f"pattern read {topics.response_prefix('%u')}#",
        *(f"pattern read {topic}" for topic in _READABLE),
    ]
    if answered := _answered(setup):
        for requester in setup.requesters:
            lines += ["", f"user {requester}", *(f"topic read {topic}" for topic in answered)]
    for device, pools in setup.devices.items():
        lines += [
            "",
            f"user {device}",
            f"topic deny {topics.PREFIX}/req/+/+/{device}",
            f"topic deny {topics.PREFIX}/ctl/+/+/{device}",
            *(f"topic read {topic}" for topic in _heard(device, pools)),
            *(f"topic read {topic}" for topic in _desired(setup, device)),
            *(f"topic read {topic}" for topic in _rules(setup, device).heard),
            f"topic write {topics.PREFIX}/res/#",
            f"topic write {topics.PREFIX}/dev/{device}/#",
            *(f"topic write {topic}" for topic in _said(setup, device)),
        ]
    for operator in setup.operators:
        lines += [
            "",
            "# It says what devices that pull shall run, and what Home Assistant shows",
            f"user {operator}",
            f"topic deny {topics.PREFIX}/req/+/+/{operator}",
            f"topic deny {topics.PREFIX}/ctl/+/+/{operator}",
            *(f"topic write {topic}" for topic in _ORDERED),
            *(f"topic read {topic}" for topic in _REPORTED),
        ]
    for gateway in setup.gateways:
        lines += [
            "",
            "# It asks for these requesters, and not as itself",
            f"user {gateway}",
            f"topic deny {topics.PREFIX}/req/+/+/{gateway}",
            f"topic deny {topics.PREFIX}/ctl/+/+/{gateway}",
            *(f"topic write {topic}" for topic in _asks_at(setup)),
            *(f"topic read {topics.response_prefix(name)}#" for name in setup.requesters),
        ]
    return "\n".join(lines) + "\n"


def _asks_at(setup: BrokerSetup) -> list[str]:
    """Where a gateway asks: the topics of each requester, by name."""
    kinds = ("req", "ctl")
    return [f"{topics.PREFIX}/{kind}/+/+/{name}" for name in setup.requesters for kind in kinds]


def _rules(setup: BrokerSetup, device: str) -> RuleTopics:
    return setup.rules.get(device, RuleTopics())


def _said(setup: BrokerSetup, device: str) -> list[str]:
    """What a device may write outside of its own topics."""
    shown = [topics.discovery_topic(object_id(device))] if device in setup.shown else []
    return [*_rules(setup, device).said, *shown]


def _answered(setup: BrokerSetup) -> list[str]:
    """The answers of rules that a requester may read: those on topics of edgekit's own."""
    said = (topic for each in setup.rules.values() for topic in each.said)
    return [topic for topic in said if topic.startswith(f"{OUTPUTS}/")]


def _desired(setup: BrokerSetup, device: str) -> list[str]:
    """The desired states that a device may read: its own and those of its groups."""
    if device not in setup.groups:
        return []
    groups = (topics.group_desired_topic(group) for group in setup.groups[device])
    return [topics.desired_topic(device), *groups]


def _heard(device: str, pools: Sequence[str]) -> list[str]:
    """The topics that a device may read: its own prompts and those of its pools."""
    heard = [topics.request_topic(device, "+"), topics.control_topic(device, "+")]
    for pool in pools:
        heard += [topics.pool_request_topic(pool, "+"), topics.pool_control_topic(pool, "+")]
    return heard


def dynamic_security(setup: BrokerSetup, accounts: Sequence[Account]) -> bytes:
    """Make one role of literal topics for each account; any other account may do nothing.

    Unlike an ACL file the plugin refuses the subscriptions too, not only their messages.
    """
    roles = [
        _device_role(
            name,
            [*_heard(name, pools), *_desired(setup, name), *_rules(setup, name).heard],
            [topics.pool_filter(pool) for pool in pools],
            _said(setup, name),
        )
        for name, pools in setup.devices.items()
    ]
    answered = _answered(setup)
    roles += [_requester_role(name, answered) for name in setup.requesters]
    roles += [_operator_role(name) for name in setup.operators]
    roles += [_gateway_role(name, setup) for name in setup.gateways]
    clients = [
        {
            "username": one.name,
            "roles": [{"rolename": one.name}],
            "password": one.hashed,
            "salt": _base64(one.salt),
            "iterations": HASH_ROUNDS,
        }
        for one in accounts
    ]
    access = {
        "publishClientSend": False,
        "publishClientReceive": False,
        "subscribe": False,
        "unsubscribe": True,
    }
    whole = {"defaultACLAccess": access, "clients": clients, "groups": [], "roles": roles}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def _device_role(
    name: str, heard: Sequence[str], shared: Sequence[str], said: Sequence[str]
) -> dict[str, Any]:
    return _role(
        name,
        *(("subscribeLiteral", topic) for topic in (*heard, *shared)),
        *(("publishClientReceive", topic) for topic in heard),
        ("publishClientSend", f"{topics.PREFIX}/res/#"),
        ("publishClientSend", f"{topics.PREFIX}/dev/{name}/#"),
        *(("publishClientSend", topic) for topic in said),
    )


def _requester_role(name: str, answered: Sequence[str]) -> dict[str, Any]:
    read = (f"{topics.response_prefix(name)}#", *_READABLE, *answered)
    return _role(
        name,
        *(("subscribePattern", topic) for topic in read),
        *(("publishClientReceive", topic) for topic in read),
        ("publishClientSend", f"{topics.PREFIX}/req/+/+/{name}"),
        ("publishClientSend", f"{topics.PREFIX}/ctl/+/+/{name}"),
    )


def _operator_role(name: str) -> dict[str, Any]:
    read = (*_READABLE, *_REPORTED)
    return _role(
        name,
        *(("subscribePattern", topic) for topic in read),
        *(("publishClientReceive", topic) for topic in read),
        *(("publishClientSend", topic) for topic in _ORDERED),
    )


def _gateway_role(name: str, setup: BrokerSetup) -> dict[str, Any]:
    answers = (f"{topics.response_prefix(each)}#" for each in setup.requesters)
    read = (*answers, *_READABLE)
    return _role(
        name,
        *(("subscribePattern", topic) for topic in read),
        *(("publishClientReceive", topic) for topic in read),
        *(("publishClientSend", topic) for topic in _asks_at(setup)),
    )


def _role(name: str, *rules: tuple[str, str]) -> dict[str, Any]:
    acls = [{"acltype": kind, "topic": topic, "allow": True} for kind, topic in rules]
    return {"rolename": name, "acls": acls}
