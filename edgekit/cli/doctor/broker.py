"""Looks whether a broker takes this machine as a requester: address, credentials and rights."""

from __future__ import annotations

import uuid
from concurrent.futures import TimeoutError as TooLateError

from edgekit.cli.doctor.diagnosis import Diagnosis, of_error
from edgekit.cli.doctor.holder import holder
from edgekit.cli.project import Project
from edgekit.cli.talk.watching import FILTERS, DeviceWatch
from edgekit.client.announced import RETAINED_QOS
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.core.protocol.reasons import FAILURE, PUBACK_NAMES
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
    requester = here.requester
    answers = f"{topics.response_prefix(requester)}#"
    try:
        client = MqttClient(
            config,
            f"edgekit-{requester}-{uuid.uuid4().hex[:12]}",
            subscriptions=[(answers, 1), *((each, RETAINED_QOS) for each in FILTERS)],
            on_message=lambda _: None,
        )
        client.connect(CONNECT_SECONDS)
    except EdgekitError as error:
        return [*found, _unreached(config, error)]
    try:
        unserved = client.unserved
        code = _allowed(client, requester)
        other = config.username
        as_account: int | None = None
        if code is not None and code >= FAILURE and other and other != requester:
            as_account = _allowed(client, other)
    finally:
        client.close()
    found += _rights(config, requester, unserved, code, as_account)
    if not any(each.verdict == "wrong" for each in found):
        with DeviceWatch(config, requester) as watch:
            watch.settle()
            count = len(watch.known)
        said = f"{config} takes {requester!r}; {count} devices have announced themselves there"
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


def _allowed(client: MqttClient, requester: str) -> int | None:
    """The reason code for a message of this requester to no device; None: there came none."""
    sent = client.publish(wire.Outbound(topics.control_topic(NOBODY, requester), b"{}"))
    try:
        return int(sent.result(timeout=PUBACK_SECONDS))
    except TooLateError:
        return None


def _rights(
    config: BrokerConfig,
    requester: str,
    unserved: tuple[str, ...],
    code: int | None,
    as_account: int | None,
) -> list[Diagnosis]:
    account = repr(config.username) if config.username else "an account without a name"
    acl = f"edgekit broker acl FOLDER --requester {requester} writes the rights for a Mosquitto"
    if code is None:
        why = f"no PUBACK within {PUBACK_SECONDS:g} s"
        what = f"{config} does not confirm a message of {requester!r}"
        return [Diagnosis("broker", "wrong", what, why, "look at the broker's log")]
    if code >= FAILURE:
        why = (
            f"{PUBACK_NAMES.get(code, f'0x{code:02x}')} for {topics.control_topic('+', requester)}"
        )
        if as_account is not None and as_account < FAILURE:
            acl = f'requester = "{config.username}" at the top of edgekit.toml'
        what = f"the broker lets {account} not ask as the requester {requester!r}"
        return [Diagnosis("broker", "wrong", what, why, acl)]
    if unserved:
        what = f"the broker lets {account} not read {', '.join(unserved)}"
        return [Diagnosis("broker", "wrong", what, "it refused the subscription", acl)]
    return []
