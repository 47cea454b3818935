"""`python -m tests.scenario`: the stories against an agent that runs somewhere, in any language.

Every reply is also compared with docs/protocol/asyncapi.yaml.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from jsonschema import ValidationError

from edgekit.client import devices
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import wire
from edgekit.errors import EdgekitError
from tests.contract.document import Document
from tests.scenario.remote import Remote
from tests.scenario.story import Action, Follower, Story, stories


@dataclass
class Judged(Remote):
    """An agent whose replies are compared with the document."""

    document: Document = field(default_factory=Document)

    def replies(self, seconds: float) -> list[wire.Inbound]:
        came = super().replies(seconds)
        for message in came:
            self.document.check(message)
        return came


def lacks(story: Story, card: wire.Card, pool: str) -> str:
    """What it takes to run a story that is not there; empty when nothing is missing."""
    actions: list[Action] = [*story.actions, *story.epilogue]
    met = {*card.capabilities, *(["one_slot"] if card.slots == 1 else [])}
    wanted: list[str] = [need for need in story.needs if need not in met]
    wanted += [action.fault for action in actions if action.fault]
    wanted += [f"{name} = {value}" for name, value in story.device.items()]
    wanted += [f"[rules.{name}]" for name in story.rules]
    sent = [part for action in actions for part in (action.send, action.control) if part]
    if any(part.pool for part in sent) and not pool:
        wanted.append("--pool")
    return ", ".join(dict.fromkeys(wanted))


def with_end_tokens(story: Story, tokens: Sequence[int]) -> Story:
    """The story for a model whose turns end with these tokens."""
    for action in story.actions:
        if action.send and action.send.body and "logit_bias" in action.send.body:
            action.send.body = action.send.body | {"logit_bias": {str(t): -100 for t in tokens}}
    return story


def follow(story: Story, requester: str, broker: BrokerConfig, device: str, pool: str) -> str:
    """Why the agent failed; empty when it did as it should."""
    target = Judged(broker, requester)
    try:
        Follower(story, requester, target, device, pool).run()
    except (AssertionError, ValidationError, TimeoutError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    finally:
        target.close()
    return ""


def card_of(broker: BrokerConfig, device: str) -> wire.Card:
    """The device's card: how many prompts it runs side by side, and what it serves.

    Raises:
        EdgekitError: the broker does not answer, or has no card of that device.
    """
    card = devices(broker, "scenario").get(device, {}).get("card")
    if card is None:
        raise EdgekitError(f"{device} has no card at {broker}", "is it there, and under that name?")
    return msgspec.convert(card, wire.Card)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 when the agent fails a story."""
    parser = argparse.ArgumentParser("python -m tests.scenario", description=__doc__)
    parser.add_argument("--broker", required=True, metavar="HOST:PORT")
    parser.add_argument("--device", required=True, metavar="NAME", help="the agent's")
    parser.add_argument("--pool", default="", metavar="NAME", help="of which it is the only member")
    parser.add_argument("--end-token", nargs="+", type=int, default=[2], metavar="ID")
    parser.add_argument("--only", nargs="+", default=[], metavar="STORY")
    arguments = parser.parse_args(argv)
    host, _, port = arguments.broker.rpartition(":")
    broker = BrokerConfig(host, int(port))
    failed = 0
    try:
        card = card_of(broker, arguments.device)
        for name, story in stories().items():
            if arguments.only and name not in arguments.only:
                continue
            lacking = lacks(story, card, arguments.pool)
            if lacking:
                print(f"not-run {name}: needs {lacking}", flush=True)
                continue
            requester = f"{name}-{uuid.uuid4().hex[:8]}"  # outcomes are kept for ten minutes
            adapted = with_end_tokens(story, arguments.end_token)
            why = follow(adapted, requester, broker, arguments.device, arguments.pool)
            failed += bool(why)
            print(f"failed  {name}: {why}" if why else f"passed  {name}", flush=True)
    except EdgekitError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
