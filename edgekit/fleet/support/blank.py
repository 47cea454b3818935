"""Leaves out of a support bundle what is nobody else's business. Pure.

It lets through what it knows, and nothing else: a key of agent.toml that this version does not know
may hold a password, and a line of the log that edgekit did not write may hold a prompt. The
operator's own logits processor, for instance, prints to the same log.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from typing import Any

from edgekit.core.config import known_settings

BLANK = "(left out)"
MOST_LEVELS = 32  # of what a stranger may have said in a device's name
# What a rule asks and how it is answered are prompts; where it listens is the site's own.
_RULE_KEYS = frozenset(
    ("window_seconds", "window_messages", "per_minute", "deadline_seconds", "when_full")
)
_TABLES = frozenset(name.partition(".")[0] for name in known_settings() if "." in name)
_SECRET = frozenset(("username", "registry"))
_OWN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} edgekit[\w.]*: ")
_SUPERVISOR = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} supervisor: ")
# What the agent's processes write besides: two lines of `boot`, and the first line of an error,
# which is theirs only if its next line is one of an error too.
_BOOT = re.compile(
    r"boot: (?:an operator stopped this device; `edgekit start` starts it"
    r"|the agent's log is /\S+)\Z"
)
_ERROR_OF_VERB = re.compile(r"(?:boot|supervise|serve|worker|upkeep|update|door): .")
_MORE_OF_ERROR = re.compile(r"  (?:why|next): ")
_FRAME = re.compile(r'  File "[^"]*", line \d+, in \S+\s*\Z')
_ERROR = re.compile(r"([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning|Expired)): .")
# What stands before the end of the log, in the reason of a trial and in an error.
_ENDED = re.compile(r"(?:the agent ended[^:|]*|its log ends with): (.*)\Z", re.DOTALL)
_TRACEBACK = "Traceback (most recent call last):"
_MANAGER = re.compile(r"\S+ \S+ (?:systemd(?:\[\d+\])?|kernel): ")


def config(text: str) -> dict[str, Any]:
    """What agent.toml says, without accounts, prompts, and what this version does not know.

    Args:
        text: of the file.

    Returns:
        Its keys; `(left out)` stands for each value that is not taken. Empty: it is no TOML.
    """
    try:
        told = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}
    known = known_settings()
    shown: dict[str, Any] = {}
    for name, value in told.items():
        if name == "rules" and isinstance(value, dict):
            shown[name] = {rule: _rule(table) for rule, table in value.items()}
        elif isinstance(value, dict):
            shown[name] = {
                key: each if f"{name}.{key}" in known and key not in _SECRET else BLANK
                for key, each in value.items()
            }
        else:
            scalar = name in known and name not in _TABLES
            shown[name] = value if scalar else BLANK
    return shown


def _rule(table: Any) -> Any:
    if not isinstance(table, dict):
        return BLANK
    return {key: value if key in _RULE_KEYS else BLANK for key, value in table.items()}


def log(lines: Iterable[str]) -> list[str]:
    """Lines of a device's log, without what edgekit did not write.

    Of a traceback the frames and the kind of the error stay; its source lines and its message go,
    which may quote a value.
    """
    known = list(lines)
    behind = [*known, ""][1:]  # as many as there are lines: none of an empty log
    return [
        line
        if _ERROR_OF_VERB.match(line) and _MORE_OF_ERROR.match(then)
        else _line(line, _OWN, _SUPERVISOR, _BOOT, _FRAME)
        for line, then in zip(known, behind, strict=True)
    ]


def journal(lines: Iterable[str]) -> list[str]:
    """Lines of the service manager and the kernel alone."""
    return [_line(line, _MANAGER) for line in lines]


def _line(line: str, *known: re.Pattern[str]) -> str:
    if line == _TRACEBACK or any(each.match(line) for each in known):
        return line
    if found := _ERROR.match(line):
        return f"{found[1]}: {BLANK}"
    return f"{BLANK}: {len(line)} characters"


def answer(told: Any, levels: int = MOST_LEVELS) -> Any:
    """What a device or a rollout said: log lines at the end of a reason are cut as in the log.

    What is deeper than so many levels is left out: nothing of edgekit's is.
    """
    if isinstance(told, dict | list) and not levels:
        return BLANK
    if isinstance(told, dict):
        return {key: answer(value, levels - 1) for key, value in told.items()}
    if isinstance(told, list):
        return [answer(value, levels - 1) for value in told]
    if not isinstance(told, str):
        return told
    if found := _ENDED.search(told):
        return told[: found.start(1)] + " | ".join(log(found[1].split(" | ")))
    return " | ".join(log(told.split(" | "))) if " | " in told else told
