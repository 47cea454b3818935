"""Reads the log of a device. It runs *there*, piped into `python3`: standard library only.

A device with a door runs its own, as the agent's verb `logs`. Supervisor, agent and worker write to
`log/agent.log`, whatever starts them; what systemd itself says of the unit is in the journal.

Prints one JSON object; `edgekit.fleet.logs` reads it.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time

LOG = ("log", "agent.log")
HEAD = 64  # bytes at the beginning of a log, which tell it from the one after a rotation
LOOK_SECONDS = 0.25
GATHER_SECONDS = 0.25  # lines that come together are told together
UNIT = "edgekit-agent.service"
JOURNAL_SECONDS = 20.0
# What journalctl(1) says to an account that sees no journal, or its own alone.
NOT_SEEN = ("not seeing messages from other users", "insufficient permissions")
NO_FILES = "No journal files were found"
_AGENT = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} ")
_SUPERVISOR = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}) ")


class RefusedLogError(Exception):
    """What is asked for cannot be had here: what, why, next step."""


def read(path: str, offset: int = 0) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read()
    except OSError:
        return b""


def head_of(path: str, length: int) -> str:
    """What the first bytes of a file are, as far as it had them at `length`."""
    try:
        with open(path, "rb") as file:
            data = file.read(min(length, HEAD))
    except OSError:
        data = b""
    return hashlib.sha256(data).hexdigest()[:16]


def whole(data: bytes) -> bytes:
    """The lines of `data` that have come to their end."""
    return data[: data.rfind(b"\n") + 1]


def time_of(line: bytes) -> "float | None":
    """When a line was written; None for one that goes on with the line before it."""
    try:
        if found := _AGENT.match(line):
            return time.mktime(time.strptime(found[1].decode(), "%Y-%m-%d %H:%M:%S"))
        if found := _SUPERVISOR.match(line):
            from datetime import datetime  # noqa: PLC0415  few lines of a log need it

            return datetime.strptime(found[1].decode(), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (ValueError, OverflowError):  # the 45th day of a month: another program's line
        return None
    return None


def last(path: str, count: int, since: "float | None") -> "tuple[list[bytes], str]":
    """The last lines, also of before a rotation, and the cursor behind them."""
    data = whole(read(path))
    lines = (read(path + ".1") + data).splitlines()
    if since is not None:
        times = [time_of(line) for line in lines]
        recent = [at for at, told in enumerate(times) if told is not None and told >= since]
        lines = lines[recent[0] :] if recent else []
    cut = lines[-count:] if count else []
    return cut, "%d:%s" % (len(data), head_of(path, len(data)))


def after(path: str, cursor: str) -> "tuple[list[bytes], str, bool]":
    """The lines behind a cursor, the next cursor, and whether lines between them are lost."""
    offset, head = int(cursor.partition(":")[0]), cursor.partition(":")[2]
    data, lost = b"", False
    try:
        size = os.path.getsize(path)
    except OSError:
        size = 0
    if size < offset or head_of(path, offset) != head:
        older = path + ".1"
        if head_of(older, offset) == head:
            data = read(older, offset)
        else:
            lost = True
        offset = 0
    new = whole(read(path, offset))
    end = offset + len(new)
    return (data + new).splitlines(), "%d:%s" % (end, head_of(path, end)), lost


def follow(path: str, cursor: str, seconds: float) -> "tuple[list[bytes], str, bool]":
    """As `after`; waits until there is a line, for so long at most."""
    deadline = time.monotonic() + seconds
    while not (found := after(path, cursor))[0] and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    if found[0] and seconds:
        time.sleep(GATHER_SECONDS)
        found = after(path, cursor)
    return found


def journal(root: str, count: int, since: "float | None", cursor: str) -> "tuple[list[bytes], str]":
    """What the service manager says of the unit, and the cursor behind it (journalctl(1))."""
    supervisor = read(os.path.join(root, "etc", "supervisor")).decode("utf-8", "replace").strip()
    unit = {"systemd-system": ["-u", UNIT], "systemd-user": ["--user-unit", UNIT]}.get(supervisor)
    if unit is None:
        raise RefusedLogError(
            "this device has no journal of the agent",
            "it is started by " + (supervisor or "nothing") + ", not by systemd",
            "leave --journal out: the agent's log is a file",
        )
    argv = ["journalctl", "--no-pager", "-o", "short-iso", "--show-cursor", *unit]
    if cursor:
        argv.append("--after-cursor=" + cursor)
    else:
        argv += ["-n", str(count)]
        argv += [] if since is None else ["--since=@%d" % since]
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            timeout=JOURNAL_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedLogError("journalctl does not run on the device", str(error), "") from None
    said = done.stderr.decode("utf-8", "replace").strip()
    if any(each in said for each in NOT_SEEN):
        step = "let an administrator put the account into the group systemd-journal"
        raise RefusedLogError("the account may not read the journal", said[-300:], step)
    # Without an entry there is no cursor to show: systemd 252 ends with 1 then and says nothing.
    no_entry = done.returncode == 1 and (not said or NO_FILES in said)
    if done.returncode != 0 and not no_entry:
        what = "journalctl ended with %d on the device" % done.returncode
        raise RefusedLogError(what, said[-300:], "")
    lines = done.stdout.splitlines()
    mark = b"-- cursor: "
    found = [line for line in lines if line.startswith(mark)]
    own = [line for line in lines if not line.startswith(b"-- ")]
    return own, found[-1][len(mark) :].decode() if found else cursor


def follow_journal(root: str, cursor: str, seconds: float) -> "tuple[list[bytes], str]":
    deadline = time.monotonic() + seconds
    while True:
        lines, found = journal(root, 0, None, cursor)
        if lines or time.monotonic() >= deadline:
            return lines, found
        time.sleep(1.0)


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """The words after ROOT, of this script and of the agent's verb."""
    parser.add_argument("--lines", type=int, default=100, help="of the end; 0: none")
    parser.add_argument("--since", type=int, default=0, help="only of the last so many seconds")
    parser.add_argument("--wait", type=int, default=0, help="seconds for a line after the cursor")
    parser.add_argument("--after", default="", metavar="CURSOR", help="of an earlier answer")
    parser.add_argument("--journal", action="store_true", help="what systemd says of the unit")


def answer(root: str, asked: argparse.Namespace) -> "dict[str, object]":
    """The lines that are asked for, as text."""
    since, lost = time.time() - asked.since if asked.since else None, False
    path = os.path.join(root, *LOG)
    if asked.journal:
        if asked.after:
            lines, cursor = follow_journal(root, asked.after, asked.wait)
        else:
            lines, cursor = journal(root, asked.lines, since, "")
    elif asked.after:
        lines, cursor, lost = follow(path, asked.after, asked.wait)
    else:
        lines, cursor = last(path, asked.lines, since)
    told = [line.decode("utf-8", "replace") for line in lines]
    return {"lines": told, "cursor": cursor, "lost": lost}


def read_for_verb(asked: argparse.Namespace) -> "dict[str, object]":
    """As `answer`, with the errors of an agent's verb."""
    from edgekit.errors import EdgekitError  # noqa: PLC0415  the script has no package around it

    try:
        return answer(str(asked.root), asked)
    except RefusedLogError as error:
        raise EdgekitError(*error.args) from None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    add_log_options(parser)
    asked = parser.parse_args()
    try:
        print(json.dumps(answer(asked.root, asked)))
    except RefusedLogError as error:
        print(json.dumps(dict(zip(("what", "why", "next"), error.args, strict=False))))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
