"""The topics on which the broker refuses what the agent publishes. Pure."""

from __future__ import annotations

from edgekit.core.protocol.reasons import FAILURE, PACKET_TOO_LARGE, PUBACK_NAMES

MAX_TOPICS = 100


class Refusals:
    """Reason codes of PUBACKs (§3.4.2.1) by topic, while they are failures."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._said: set[str] = set()

    def answered(self, topic: str, code: int) -> str:
        """Note the code of a message on a topic.

        Returns:
            A line for the log when the topic is refused for the first time, else empty.
        """
        if code < FAILURE:
            self._codes.pop(topic, None)
            return ""
        if topic in self._codes or len(self._codes) < MAX_TOPICS:
            self._codes[topic] = code
        # the MQTT client itself says what is too large
        if topic in self._said or len(self._said) >= MAX_TOPICS or code == PACKET_TOO_LARGE:
            return ""
        self._said.add(topic)
        name = PUBACK_NAMES.get(code, "another reason")
        return (
            f"the broker refuses messages on {topic}: {name} (0x{code:02X}); "
            "check its ACL for this device"
        )

    def now(self) -> tuple[tuple[str, int], ...]:
        """Return the topics that are refused now, with the codes."""
        return tuple(self._codes.items())
