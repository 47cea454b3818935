"""Looks whether a broker takes this machine as a requester: address, credentials and rights."""

from __future__ import annotations

import uuid
from concurrent.futures import TimeoutError as TooLateError

from edgekit.cli.doctor.diagnosis import Diagnosis, of_error
from edgekit.cli.doctor.holder import holder
from edgekit.cli.project import Project
from edgekit.core import topics, wire
from edgekit.core.config import BrokerConfig
from edgekit.core.reasons import FAILURE, PUBACK_NAMES
from edgekit.core.registry import is_loopback
from edgekit.errors import EdgekitError
from edgekit.mqtt.threaded import MqttClient

CONNECT_SECONDS = 6.0
PUBACK_SECONDS = 4.0
NOBODY = "edgekit-doctor"
"""A device that no fleet has: what is sent to it reaches nobody, and the broker says whether it was
allowed."""


def broker(here: Project) -> list[Diagnosis]:
    """Connect, subscribe and publish as `edgekit ask` would; nobody receives anything."""
    config = here.broker
    found = [Diagnosis("broker", "warning", config.warning)] if config.warning else []
    seen: set[str] = set()
    requester = here.requester

    def received(message: wire.Inbound) -> None:
        if message.payload:
            seen.add(topics.device_of(message.topic))

    filters = (
        f"{topics.response_prefix(requester)}#",
        topics.card_topic("+"),
        topics.status_topic("+"),
    )
    try:
        client = MqttClient(
            config,
            f"edgekit-{requester}-{uuid.uuid4().hex[:12]}",
            subscriptions=[(each, 1) for each in filters],
            on_message=received,
            retained=True,
        )
        client.connect(CONNECT_SECONDS)
    except EdgekitError as error:
        return [*found, _unreached(config, error)]
    try:
        unserved = client.unserved
        code = _allowed(client, requester)
        other = config.username
        as_account = 0
        if code >= FAILURE and other and other != requester:
            as_account = _allowed(client, other)
    finally:
        client.close()
    found += _rights(config, requester, unserved, code, as_account)
    if not any(each.verdict == "wrong" for each in found):
        said = f"{config} takes {requester!r}; {len(seen)} devices have announced themselves there"
        found.append(Diagnosis("broker", "ok", said))
    return found


def _unreached(config: BrokerConfig, error: EdgekitError) -> Diagnosis:
    """Why there is no connection; on this machine, also who listens there."""
    if not is_loopback(config.host):
        return of_error("broker", error)
    taken = holder(config.port)
    if taken is None:
        return Diagnosis(
            "broker",
            "wrong",
            f"no broker runs at {config}",
            "nothing listens there",
            f"edgekit broker run --port {config.port}, for a trial",
        )
    if "does not speak MQTT 5" in error.what or "ended the connection" in error.what:
        return Diagnosis(
            "broker",
            "wrong",
            f"port {config.port} is taken" + (f" by {taken}" if taken else "")
            + ", which is no broker of MQTT 5",
            error.why,
            f"edgekit broker run --port {config.port + 1}, with port = {config.port + 1} in "
            "[broker] of edgekit.toml",
        )  # fmt: skip
    return of_error("broker", error)


def _allowed(client: MqttClient, requester: str) -> int:
    """The reason code for a message of this requester to a device that does not exist."""
    sent = client.publish(wire.Outbound(topics.control_topic(NOBODY, requester), b"{}"))
    try:
        return int(sent.result(timeout=PUBACK_SECONDS))
    except TooLateError:
        return 0


def _rights(
    config: BrokerConfig, requester: str, unserved: tuple[str, ...], code: int, as_account: int
) -> list[Diagnosis]:
    account = repr(config.username) if config.username else "an account without a name"
    acl = f"edgekit broker acl FOLDER --requester {requester} writes the rights for a Mosquitto"
    if code >= FAILURE:
        why = (
            f"{PUBACK_NAMES.get(code, f'0x{code:02x}')} for {topics.control_topic('+', requester)}"
        )
        if config.username and config.username != requester and as_account < FAILURE:
            acl = f'requester = "{config.username}" at the top of edgekit.toml'
        what = f"the broker lets {account} not ask as the requester {requester!r}"
        return [Diagnosis("broker", "wrong", what, why, acl)]
    if unserved:
        what = f"the broker lets {account} not read {', '.join(unserved)}"
        return [Diagnosis("broker", "wrong", what, "it refused the subscription", acl)]
    return []
