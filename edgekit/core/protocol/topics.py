"""The topics of protocol v1 (docs/protocol) and their subscriptions.

Section numbers are those of the OASIS MQTT 5.0 standard.
"""

from __future__ import annotations

from edgekit.core.config import NAME

PREFIX = "edgekit/v1"


def request_topic(device: str, requester: str) -> str:
    """The topic for a prompt to one device."""
    return f"{PREFIX}/req/dev/{device}/{requester}"


def control_topic(device: str, requester: str) -> str:
    """The topic for `cancel` and `query` to one device."""
    return f"{PREFIX}/ctl/dev/{device}/{requester}"


def pool_request_topic(pool: str, requester: str) -> str:
    """The topic for a prompt to any device of a pool."""
    return f"{PREFIX}/req/pool/{pool}/{requester}"


def pool_control_topic(pool: str, requester: str) -> str:
    """The topic for `cancel` and `query` while the device is unknown; every member hears them."""
    return f"{PREFIX}/ctl/pool/{pool}/{requester}"


def pool_filter(pool: str) -> str:
    """The shared subscription of a pool's members (§4.8.2): one of them gets each prompt."""
    return f"$share/ek.{pool}/{pool_request_topic(pool, '+')}"


def is_ours(topic: str) -> bool:
    """Whether a message is one of the protocol; any other is one that a rule listens to."""
    return topic.startswith(f"{PREFIX}/")


def is_control(topic: str) -> bool:
    """Whether a message is a control message; otherwise it is a prompt."""
    return topic.startswith(f"{PREFIX}/ctl/")


def response_prefix(requester: str) -> str:
    """The prefix of every Response Topic of a requester."""
    return f"{PREFIX}/res/{requester}/"


def card_topic(device: str) -> str:
    """The topic of the retained card: what the device serves."""
    return f"{PREFIX}/dev/{device}/card"


def status_topic(device: str) -> str:
    """The topic of the retained status, also the device's Will."""
    return f"{PREFIX}/dev/{device}/status"


def metrics_topic(device: str) -> str:
    """The topic of the device's metrics, published at intervals and not retained."""
    return f"{PREFIX}/dev/{device}/metrics"


def desired_topic(device: str) -> str:
    """The topic of the retained desired state of one device."""
    return f"{PREFIX}/desired/dev/{device}"


def group_desired_topic(group: str) -> str:
    """The topic of the retained desired state of a group; a device's own wins over it."""
    return f"{PREFIX}/desired/group/{group}"


def is_desired(topic: str) -> bool:
    """Whether a message is a desired state."""
    return topic.startswith(f"{PREFIX}/desired/")


def update_topic(device: str) -> str:
    """The topic of the retained report of what a device made of its desired state."""
    return f"{PREFIX}/dev/{device}/update"


def discovery_topic(object_id: str) -> str:
    """The topic of a device's retained discovery message, where Home Assistant looks by default."""
    return f"homeassistant/device/{object_id}/config"


def device_of(topic: str) -> str:
    """The device of a card, status, metrics or update topic; empty for another topic."""
    levels = topic.split("/")
    return levels[3] if len(levels) == 5 and topic.startswith(f"{PREFIX}/dev/") else ""


def requester_of(topic: str) -> str:
    """The requester's name: the last level of a request or control topic; empty if unusable."""
    name = topic.rsplit("/", 1)[-1]
    return name if NAME.match(name) else ""
