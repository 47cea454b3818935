"""The log of a device, over its connection: its end, and what comes after a cursor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError
from edgekit.fleet.commands import CommandResult
from edgekit.fleet.drive import DeviceDriver

# of a device's own agent, too
READ_LOG = Path(__file__).parents[1] / "agent" / "release" / "door" / "readlog.py"
ANSWER_SECONDS = 60.0
MOST_WAIT_SECONDS = 30


class LogPart(msgspec.Struct, frozen=True):
    """Lines of a device's log.

    Attributes:
        lines: without their ends; anything may stand in them.
        cursor: where the next part begins.
        lost: the log was rotated twice since the cursor, or its disk was full: lines are missing.
    """

    lines: list[str]
    cursor: str
    lost: bool = False


def read_log(
    driver: DeviceDriver,
    *,
    lines: int = 100,
    since_seconds: int = 0,
    after: str = "",
    wait_seconds: int = 0,
    journal: bool = False,
) -> LogPart:
    """Read lines of a device's log; its agent need not run.

    Args:
        driver: the device.
        lines: of the end.
        since_seconds: only lines of the last so many seconds, by the device's clock; 0: any.
        after: the cursor of an earlier part; lines and since do not count then.
        wait_seconds: for a line after the cursor, at most 30.
        journal: what systemd says of the agent's unit, in place of the agent's own log.

    Raises:
        UnreachableError: the connection is lost.
        EdgekitError: the device has no such log, or the account may not read it.
    """
    words = ["--lines", str(lines), "--since", str(since_seconds)]
    words += ["--wait", str(min(wait_seconds, MOST_WAIT_SECONDS))]
    words += ["--after", after] if after else []
    words += ["--journal"] if journal else []
    seconds = ANSWER_SECONDS + wait_seconds
    return _part(driver.name, _ask(driver, words, seconds))


def _ask(driver: DeviceDriver, words: list[str], seconds: float) -> dict[str, Any]:
    """By the own agent of a door, else by a script: the agent may be what is broken."""
    if not driver.facts.door:
        return _told(driver, driver.script(READ_LOG.read_bytes(), *words, seconds=seconds))
    try:
        return driver.call("logs", *words, seconds=seconds)
    except EdgekitError as error:
        if error.retryable or "is no verb of a push" not in error.why:
            raise
        raise EdgekitError(
            f"{driver.name}: its door is of an edgekit that shows no log",
            "this account reaches nothing but the device's own door",
            f"`edgekit push {driver.name}` with a bundle of this edgekit, then ask again",
        ) from None


def _told(driver: DeviceDriver, done: CommandResult) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(done.stdout, type=dict[str, Any])
    except UNREADABLE:
        said = done.stderr.decode("utf-8", "replace").strip()[-500:]
        raise EdgekitError(
            f"{driver.name}: the log's reader ended with {done.code}", said
        ) from None
    if done.code != 0:
        told = (str(answer.get(name) or "") for name in ("why", "next"))
        raise EdgekitError(f"{driver.name}: {answer.get('what')}", *told)
    return answer


def _part(name: str, told: dict[str, Any]) -> LogPart:
    try:
        return msgspec.convert(told, LogPart)
    except UNREADABLE as error:
        raise EdgekitError(
            f"{name}: the answer about its log cannot be read", str(error)
        ) from error
