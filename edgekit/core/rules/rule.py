"""A rule: the messages that a device hears, the prompt that it makes of them, its answers' topic.

`[rules.NAME]` of a device or a group in fleet.toml, and of agent.toml. The fields of the prompt's
body are checked by `check`, because reading a body needs the protocol.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edgekit.core.rules.filters import check_filter, check_topic, matches, overlap

ROOT = "edgekit"  # every topic of the protocol lies below it
PROTOCOL = f"{ROOT}/v1/+/+/+/#"  # what these topics match: none has fewer levels
OUTPUTS = f"{ROOT}/v1/rule"
DEVICE = "{device}"  # stands for the device's name in a filter and in a topic
REQUESTER = "rule:"  # before a rule's name: no client can have such a name, it has a colon
MAX_RULES = 32  # of a device: each is a subscription
MAX_PROMPT_CHARS = 16 << 10
MAX_WINDOW_SECONDS = 3600.0
MAX_WINDOW_MESSAGES = 256
MAX_PER_MINUTE = 6000.0

WhenFull = Literal["drop_oldest", "drop_new"]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule of a device.

    Attributes:
        topic_filter: what the device hears; `{device}` is its name.
        prompt: a Jinja template; `message` is the latest message's JSON, `messages` are all.
        system: a system message, as it stands.
        publish: the topic of the answers; empty: `edgekit/v1/rule/<device>/<name>`.
        response_format: what the answer must look like, as in a prompt's body.
        body: other fields of the prompt's body, as the protocol has them.
        window_seconds: all messages of so long become one prompt; 0: each message is one.
        window_messages: of one window at most; `when_full` says which are left out.
        per_minute: prompts at most, evenly spread.
        deadline_seconds: an answer that is not there by then is not made.
        when_full: which message goes where a window, or the device's queue, has no room.
        repeat_seconds: the same payload on the same topic at QoS 1 is taken once in so long;
            0: always.
    """

    topic_filter: str
    prompt: str
    system: str = ""
    publish: str = ""
    response_format: dict[str, Any] = {}
    body: dict[str, Any] = {}
    window_seconds: float = 0.0
    window_messages: int = 100
    per_minute: float = 10.0
    deadline_seconds: int = 60
    when_full: WhenFull = "drop_oldest"
    repeat_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_filter(self.topic_filter)
        if overlap(self.topic_filter, PROTOCOL) or self.topic_filter.split("/")[0] == ROOT:
            text = "prompts, answers and states of devices are no messages for a rule"
            raise ValueError(f"topic_filter {self.topic_filter!r} hears edgekit's own: {text}")
        if not self.prompt.strip():
            raise ValueError("prompt is empty")
        if len(self.prompt) + len(self.system) > MAX_PROMPT_CHARS:
            raise ValueError(f"prompt and system have more than {MAX_PROMPT_CHARS} characters")
        if self.publish:
            check_topic(self.publish)
        if self.publish and self.hears(self.publish):
            raise ValueError(
                f"it hears itself: topic_filter {self.topic_filter!r} matches publish "
                f"{self.publish!r}"
            )
        for name, least, most in (
            ("window_seconds", 0, MAX_WINDOW_SECONDS),
            ("window_messages", 1, MAX_WINDOW_MESSAGES),
            ("deadline_seconds", 1, 3600),
            ("repeat_seconds", 0, 3600),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be {least} to {most:g}")
        if not 0 < self.per_minute <= MAX_PER_MINUTE:
            raise ValueError(f"per_minute must be above 0 and at most {MAX_PER_MINUTE:g}")

    def hears(self, topic: str) -> bool:
        """Whether the rule is for messages on a topic."""
        return matches(self.topic_filter, topic)

    def output(self, device: str, name: str) -> str:
        """The topic of its answers on a device, where the rule has this name."""
        return self.publish or default_output(device, name)

    def on(self, device: str) -> Rule:
        """The rule as one device has it."""
        return msgspec.structs.replace(
            self,
            topic_filter=self.topic_filter.replace(DEVICE, device),
            publish=self.publish.replace(DEVICE, device),
        )


def default_output(device: str, name: str) -> str:
    """The topic of a rule's answers, where the rule names none."""
    return f"{OUTPUTS}/{device}/{name}"


def requester_name(rule: str) -> str:
    """The name under which a rule's prompts queue: reserved, as no topic can have it."""
    return f"{REQUESTER}{rule}"


def check_places(rules: dict[str, Rule], device: str) -> None:
    """Check where the rules of one device hear and publish.

    Raises:
        ValueError: an output is not the rule's to write on, two filters overlap without being the
            same, or a rule hears another one's answers.
    """
    if len(rules) > MAX_RULES:
        raise ValueError(f"{len(rules)} rules; a device has at most {MAX_RULES}")
    for name, rule in rules.items():
        output, own = rule.output(device, name), default_output(device, name)
        if output.split("/")[0] == ROOT and not f"{output}/".startswith(f"{own}/"):
            raise ValueError(
                f"rule {name} publishes on {output!r}: below {ROOT}/ only {own} is its own"
            )
        for other, heard in rules.items():
            if heard.hears(output):
                raise ValueError(
                    f"rule {other} hears what rule {name} publishes: {heard.topic_filter!r} "
                    f"matches {output!r}"
                )
            one, two = rule.topic_filter, heard.topic_filter
            if one != two and overlap(one, two):
                raise ValueError(
                    f"the rules {name} and {other} overlap: a broker may deliver a message for "
                    f"each of {one!r} and {two!r}; give both one filter"
                )
