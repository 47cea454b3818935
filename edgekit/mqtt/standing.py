"""How a client stands with its broker: what the broker grants, and why it refuses.

It writes each line to the log once: attempts to connect may go on for days.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol.reasons import UNSUPPORTED_PROTOCOL_VERSION
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.mqtt.losses import BriefLosses, hint
from edgekit.mqtt.terms import BrokerTerms, explain_code, is_explained

log = logging.getLogger(__name__)

MAX_TOLD = 100  # different lines that `warn_once` writes


class Standing:
    """What one client knows of its broker.

    Args:
        broker: its address.
        client_id: of the client.

    Attributes:
        terms: what the broker grants, as its latest CONNACK says.
        refusal: why the broker refuses us or we refuse its certificate; None once connected.
        unserved: the filters that the broker does not serve.
    """

    def __init__(self, broker: BrokerConfig, client_id: str) -> None:
        self._broker = broker
        self._client_id = client_id
        self._losses = BriefLosses()
        self._complaint = ""
        self._told: set[str] = set()
        self.terms = BrokerTerms()
        self.refusal: EdgekitError | None = None
        self.unserved: tuple[str, ...] = ()

    @property
    def trouble(self) -> str:
        """Why there is no lasting connection, in one line; empty where that is not known."""
        if self._losses.several:
            return hint(self._broker, self._client_id)
        return self._complaint

    # --- the connection -----------------------------------------------------------------------
    def granted(self, terms: BrokerTerms) -> None:
        """Take what a CONNACK says."""
        self.terms = terms
        if terms.client_id and terms.client_id != self._client_id:
            self.warn_once(
                terms.client_id, f"the broker at {self._broker} calls us {terms.client_id}"
            )
            self._client_id = terms.client_id
        if terms.session_seconds:
            self.warn_once(
                "session",
                f"the broker at {self._broker} keeps our session for {terms.session_seconds} s: "
                "prompts of a pool may wait for a device that is away",
            )

    def subscribed(self) -> None:
        """Note that the connection is whole."""
        self._complaint = ""

    def refused_with(self, code: int, name: str, properties: Any, *, about: str = "") -> None:
        """Note the reason code with which the broker refuses; see `explain_code`."""
        error = explain_code(self._broker, code, name, properties)
        error.why = about + error.why
        self.refused(error)

    def no_mqtt5(self, code: int) -> None:
        """Note a CONNACK of MQTT 3.1.1, which has no properties; `code` is its return code."""
        error = explain_code(self._broker, UNSUPPORTED_PROTOCOL_VERSION, "")
        error.why = f"its CONNACK is one of MQTT 3.1.1 (return code {code})"
        self.refused(error)

    def refused(self, error: EdgekitError) -> None:
        """Note why there will be no connection."""
        self.complain(error)
        self.refusal = error

    def lost(self, code: int, name: str, properties: Any, *, accepted: bool, told: bool) -> None:
        """Note that the connection ended.

        Args:
            code: of the broker's DISCONNECT, or paho's.
            name: of the code.
            properties: of the DISCONNECT.
            accepted: whether a CONNACK had come.
            told: whether the broker sent a DISCONNECT.
        """
        if told and is_explained(code):
            self.complain(explain_code(self._broker, code, name, properties))
        elif accepted:
            self.complain(UnreachableError(f"connection to {self._broker} lost", name))
        else:
            what = f"the broker at {self._broker} ended the connection before it accepted us"
            step = "is this its MQTT port, and does it speak MQTT 5?"
            self.complain(UnreachableError(what, name, step))

    def ended(self, lived_seconds: float, *, told: bool) -> None:
        """Note how long a subscribed connection lived, and whether a DISCONNECT ended it."""
        if self._losses.lost(lived_seconds, told_why=told):
            log.warning(hint(self._broker, self._client_id))

    # --- what is not served -------------------------------------------------------------------
    def not_served(self, filters: Sequence[str], why: str) -> None:
        """Note filters that the broker does not serve; the client serves the others."""
        self.unserved = tuple(dict.fromkeys((*self.unserved, *filters)))
        for each in filters:
            self.warn_once(each, f"broker {self._broker} refused a subscription: {why} ({each})")

    def granted_less(self, topic_filter: str, qos: int) -> None:
        """Note a subscription that the broker granted with a lower QoS."""
        self.warn_once(
            topic_filter,
            f"the broker at {self._broker} grants only QoS {qos} for {topic_filter}: "
            "messages may be lost",
        )

    def left_out(self, topic: str, size_bytes: int) -> None:
        """Note a message that is larger than the broker's largest packet."""
        self.warn_once(
            topic,
            f"a message of {size_bytes} bytes on {topic} is left out: the broker at {self._broker} "
            f"takes at most {self.terms.max_packet_bytes} bytes (max_packet_size in "
            "mosquitto.conf)",
        )

    # --- the log ------------------------------------------------------------------------------
    def complain(self, error: EdgekitError) -> None:
        """Log why there is no connection, once per reason."""
        text = "; ".join(filter(None, (error.what, error.why, error.next_step)))
        if text != self._complaint:
            log.warning(text)
        self._complaint = text

    def warn_once(self, about: str, text: str) -> None:
        """Log a line, unless there was one about the same."""
        if about not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(about)
            log.warning(text)
