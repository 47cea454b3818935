"""Performs the steps of an enrolment. Runs *there*, as root or not: standard library only.

Reads JSON from standard input: `record`, the file that says what was made, and `steps`. Each step
looks first whether it is done, and writes into the record what it is about to make: an enrolment
that breaks off is gone on with, or taken back, from the record alone. Prints which steps changed
something, and why one failed; `edgekit.fleet.enroll.values` has the steps.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path

from edgekit.fleet.enroll import make, unmake
from edgekit.fleet.enroll.record import MadeLog, NoMadeLog, Step, StepFailedError, drop


def as_account(name: str, step: Step, record: MadeLog) -> bool:
    """Do a step as an account: where it owns the folders, root must follow none of its links."""
    if not name or name == pwd.getpwuid(os.getuid()).pw_name:
        return do(step, record)
    if "source" in step:  # a file of the account that logged in; the name of the file is ours
        step["opened"] = os.open(step["source"], os.O_RDONLY | os.O_NOFOLLOW)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            account = pwd.getpwnam(name)
            os.initgroups(name, account.pw_gid)
            os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
            os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
            answer = {"changed": do(step, NoMadeLog()), "said": step.get("said", "")}
        except BaseException as error:
            answer = {"error": str(error)}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        answer = json.loads(file.read())
    os.waitpid(child, 0)
    if "error" in answer:
        raise StepFailedError(answer["error"])
    if "source" in step:
        os.close(step["opened"])
        drop(Path(step["source"]))
    step["said"] = answer["said"]
    return bool(answer["changed"])


def do(step: Step, record: MadeLog) -> bool:
    name = f"do_{step['do']}"
    return bool((getattr(make, name, None) or getattr(unmake, name))(step, record))


def main() -> None:
    told = json.loads(sys.stdin.buffer.read())
    os.umask(0o022)
    record = MadeLog(Path(told["record"]))
    done: list[dict[str, object]] = []
    for number, step in enumerate(told["steps"]):
        try:
            changed = as_account(step.get("account_of", ""), step, record)
        except (OSError, KeyError, ValueError, StepFailedError) as error:
            print(json.dumps({"done": done, "failed": number, "why": str(error)}))
            return
        done.append({"changed": changed, "said": step.get("said", "")})
    print(json.dumps({"done": done, "failed": None, "why": ""}))


if __name__ == "__main__":
    main()
