"""Whether a device can run its rules: the bodies of their prompts, and loops. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.core import finite
from edgekit.core.chat.body import parse_body
from edgekit.core.chat.request import ChatRequest
from edgekit.core.protocol.wire import ProtocolError
from edgekit.core.rules.filters import TopicTree
from edgekit.core.rules.rule import Rule
from edgekit.errors import UsageError

# A rule's prompt has one user message, one answer, and nobody who runs a tool.
NOT_IN_A_BODY = (
    *("messages", "model", "n", "stream", "stream_options", "response_format"),
    *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
)


def body_of(rule: Rule, text: str) -> bytes:
    """The body of a rule's prompt, with this text as the user's message.

    Raises:
        ValueError: the rule has a number that JSON does not have.
    """
    messages = [{"role": "system", "content": rule.system}] if rule.system else []
    messages.append({"role": "user", "content": text})
    body = {"messages": messages, "stream": False, **rule.body}
    if rule.response_format:
        body["response_format"] = rule.response_format
    return finite.encode(body)


def request_of(name: str, rule: Rule) -> ChatRequest:
    """The prompt of a rule as it was read, its template in the place of the user's text.

    Raises:
        UsageError: the rule's fields are none of a prompt's body, or not for a rule.
    """
    for key in NOT_IN_A_BODY:
        if key in rule.body:
            own = "response_format is a key of the rule itself" if key == "response_format" else ""
            raise UsageError(
                f"rule {name}: body.{key} is not for a rule",
                own or "a rule sends one message and takes one whole answer",
                "take it out",
            )
    try:
        return parse_body(body_of(rule, rule.prompt))
    except ProtocolError as error:
        field = error.param or "its prompt"
        raise UsageError(
            f"rule {name} makes a prompt that no device takes",
            f"{field}: {error.what}",
            "correct it in the rule's table; the fields are those of a prompt's body",
        ) from None
    except ValueError as error:
        what = f"rule {name} makes a prompt that no device takes"
        raise UsageError(what, str(error), "write another number in the rule's table") from None


def check_loops(rules: Mapping[str, Mapping[str, Rule]]) -> None:
    """Check that no rule of a fleet hears what a rule publishes.

    Args:
        rules: of each device, by name, as the device has them.

    Raises:
        UsageError: names both rules.
    """
    by_output = {
        rule.output(device, name): f"rule {name} of {device}"
        for device, named in rules.items()
        for name, rule in named.items()
    }
    outputs = TopicTree(by_output)
    looked: set[str] = set()
    for device, named in rules.items():
        for name, rule in named.items():
            if rule.topic_filter in looked:
                continue
            looked.add(rule.topic_filter)
            if found := outputs.find(rule.topic_filter):
                raise UsageError(
                    f"rule {name} of {device} hears what {by_output[found]} publishes",
                    f"its topic_filter {rule.topic_filter!r} matches {found!r}: that may never end",
                    "give the answers a topic that no rule hears",
                )
