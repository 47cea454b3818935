"""The rules of a fleet's devices: refused here, before a device has them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edgekit.core.rules.rule import Rule, check_places
from edgekit.errors import EdgekitError, UsageError

NEXT = "correct it in the rule's table of fleet.toml"


def check_rules(told: Mapping[str, Mapping[str, Rule]], file: str) -> None:
    """Check the rules of all devices, each by itself and all with each other.

    Args:
        told: each device's rules by name, as the file has them.
        file: for the error.

    Raises:
        UsageError: a rule's prompt is none, or rules hear rules; names rule and device.
    """
    found = {
        device: {name: rule.on(device) for name, rule in rules.items()}
        for device, rules in told.items()
        if rules
    }
    if not found:
        return
    from edgekit.core.rules.check import check_loops  # noqa: PLC0415  few fleets have rules

    looked: set[bytes] = set()
    for device, rules in found.items():
        try:
            check_places(rules, device)
        except ValueError as error:
            raise UsageError(f"{file}: the rules of {device}", str(error), NEXT) from None
        for name, rule in rules.items():
            asks = msgspec.json.encode((rule.prompt, rule.system, rule.response_format, rule.body))
            if asks not in looked:
                looked.add(asks)
                _check_prompt(name, rule, file)
    try:
        check_loops(found)
    except UsageError as error:
        raise UsageError(f"{file}: {error.what}", error.why, error.next_step) from None


def _check_prompt(name: str, rule: Rule, file: str) -> None:
    from edgekit.core.rules.check import request_of  # noqa: PLC0415  only rules need it
    from edgekit.tokens.rule import RuleTemplate  # noqa: PLC0415  only rules need Jinja

    try:
        request_of(name, rule)
    except UsageError as error:
        raise UsageError(f"{file}: {error.what}", error.why, error.next_step) from None
    try:
        RuleTemplate(rule.prompt)
    except EdgekitError as error:
        raise UsageError(f"{file}: rule {name}: {error.what}", error.why, NEXT) from None
