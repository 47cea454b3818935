"""Topics and topic filters of MQTT 5 (§4.7): which are valid, what matches, what overlaps. Pure."""

from __future__ import annotations

from collections.abc import Iterable

MAX_CHARS = 512
MAX_LEVELS = 32  # a publish below 200 levels makes Mosquitto end the connection
ONE, REST = "+", "#"


def check_topic(topic: str) -> None:
    """Check a topic that a program publishes on; raises ValueError."""
    _check_text(topic)
    if ONE in topic or REST in topic:
        raise ValueError(f"the topic {topic!r} has a wildcard: an answer goes to one topic")


def check_filter(topic_filter: str) -> None:
    """Check a topic filter that is no shared subscription; raises ValueError."""
    _check_text(topic_filter)
    levels = topic_filter.split("/")
    if any(len(level) > 1 and (ONE in level or REST in level) for level in levels):
        raise ValueError(f"the filter {topic_filter!r}: + and # are a level of their own")
    if REST in levels[:-1]:
        raise ValueError(f"the filter {topic_filter!r}: # is the last level")


def _check_text(text: str) -> None:
    if not text:
        raise ValueError("a topic is empty")
    if len(text) > MAX_CHARS or text.count("/") >= MAX_LEVELS:
        raise ValueError(
            f"{text[:40]!r}… has more than {MAX_CHARS} characters, {MAX_LEVELS} levels"
        )
    if text.startswith("$"):
        raise ValueError(f"{text!r} begins with $: such topics are the broker's own")
    if text != text.strip() or "%" in text:
        raise ValueError(f"{text!r}: a broker's list of rights cannot tell such a topic")
    if not text.isprintable():
        raise ValueError(f"{text!r} has a character that cannot be printed")


def overlap(one: str, other: str) -> bool:
    """Whether a topic exists that both filters match; a topic is a filter, too."""
    return _meet(one.split("/"), other.split("/"))


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter matches a topic that does not begin with `$`."""
    return overlap(topic_filter, topic)


def _meet(one: list[str], other: list[str]) -> bool:
    for level, against in zip(one, other, strict=False):
        if REST in (level, against):
            return True
        if ONE not in (level, against) and level != against:
            return False
    # `a/#` matches `a`, too (§4.7.1.2)
    longer = one if len(one) > len(other) else other
    rest = longer[min(len(one), len(other)) :]
    return not rest or rest == [REST]


class TopicTree:
    """Topics by their levels: finds one that a filter matches without a look at all of them."""

    def __init__(self, topics: Iterable[str] = ()) -> None:
        self._below: dict[str, TopicTree] = {}
        self._topic = ""
        for topic in topics:
            self.add(topic)

    def add(self, topic: str) -> None:
        """Add a topic, which has no wildcards."""
        place = self
        for level in topic.split("/"):
            place = place._below.setdefault(level, TopicTree())
        place._topic = topic

    def find(self, topic_filter: str) -> str:
        """Return a topic that the filter matches; empty if there is none."""
        return self._find(topic_filter.split("/"))

    def _find(self, levels: list[str]) -> str:
        if not levels:
            return self._topic
        level, rest = levels[0], levels[1:]
        if level == REST:
            return self._topic or self._any()
        below = self._below.values() if level == ONE else filter(None, [self._below.get(level)])
        return next((found for each in below if (found := each._find(rest))), "")

    def _any(self) -> str:
        below = self._below.values()
        return self._topic or next((found for each in below if (found := each._any())), "")
