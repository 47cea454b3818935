"""The topics of protocol v1 (docs/protocol): who publishes where, and what is subscribed.

Section numbers are those of the OASIS MQTT 5.0 standard.
"""

from __future__ import annotations

from edgekit.core.config import NAME

PREFIX = "edgekit/v1"


def request_topic(device: str, requester: str) -> str:
    """Where a prompt for one device is published."""
    return f"{PREFIX}/req/dev/{device}/{requester}"


def control_topic(device: str, requester: str) -> str:
    """Where `cancel` and `query` are published."""
    return f"{PREFIX}/ctl/dev/{device}/{requester}"


def pool_request_topic(pool: str, requester: str) -> str:
    """Where a prompt for whichever device of a pool is published."""
    return f"{PREFIX}/req/pool/{pool}/{requester}"


def pool_control_topic(pool: str, requester: str) -> str:
    """Where `cancel` and `query` go while the device is not known; every member hears them."""
    return f"{PREFIX}/ctl/pool/{pool}/{requester}"


def pool_filter(pool: str) -> str:
    """The shared subscription of a pool's members (§4.8.2): one of them gets each prompt."""
    return f"$share/ek.{pool}/{pool_request_topic(pool, '+')}"


def is_control(topic: str) -> bool:
    """Whether a message is a control message, else it is a prompt."""
    return topic.startswith(f"{PREFIX}/ctl/")


def response_prefix(requester: str) -> str:
    """Every Response Topic of a requester starts with this."""
    return f"{PREFIX}/res/{requester}/"


def card_topic(device: str) -> str:
    """Retained: what the device serves."""
    return f"{PREFIX}/dev/{device}/card"


def status_topic(device: str) -> str:
    """Retained: how the device is; also its Will."""
    return f"{PREFIX}/dev/{device}/status"


def metrics_topic(device: str) -> str:
    """What the device has counted, every now and then; not retained."""
    return f"{PREFIX}/dev/{device}/metrics"


def requester_of(topic: str) -> str:
    """The requester's name: the last level of a request or control topic; empty if unusable."""
    name = topic.rsplit("/", 1)[-1]
    return name if NAME.match(name) else ""
