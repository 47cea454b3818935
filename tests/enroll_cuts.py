"""An enrolment that is cut after a step: it is removed without a trace, or gone on with."""

from __future__ import annotations

from contextlib import closing

from edgekit import data
from edgekit.fleet.enroll import drive
from edgekit.fleet.enroll.decide import enroll_plan
from edgekit.fleet.enroll.drive import Arrival, EnrollRequest
from edgekit.fleet.link.remote import SshRemote
from tests.harness.systemd_device import ACCOUNTS, SystemdDevice

PLACES = "/etc /home /root /usr/local /var/lib /var/spool"
# What the system itself writes: its logs, its clocks, and the copies that useradd keeps.
OWN = (
    *("/proc", "/sys", "/run", "/dev", "/tmp", "/var/log", "/var/tmp", "/var/lib/systemd/timers"),
    *("/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock"),
    *(
        "/etc/subuid-",
        "/etc/subgid-",
        "/var/lib/sudo",
        f"{ACCOUNTS['root']}/.cache",
        "/etc/.updated",
    ),
    *("/var/.updated", "/var/lib/systemd/random-seed", "/var/lib/private", "/var/cache"),
    "/home/admin/.sudo_as_admin_successful",  # sudo's own mark
)
SNAPSHOT = """
import hashlib, os, sys
top, *own = sys.argv[1:]
for folder, folders, files in (one for place in top.split() for one in os.walk(place)):
    folders[:] = sorted(f for f in folders if os.path.join(folder, f) not in own)
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        if path in own:
            continue
        at = os.lstat(path)
        what = os.readlink(path) if os.path.islink(path) else ""
        hashed = folder.startswith(("/etc", "/home", "/root", "/usr/local", "/var/spool"))
        if not what and hashed and os.path.isfile(path):
            lines = open(path, "rb").readlines()
            text = b"".join(one for one in lines if one[:3] != b"# (")  # crontab writes the time
            what = hashlib.sha256(text).hexdigest()
        print(path, oct(at.st_mode), at.st_uid, at.st_gid, what)
"""


def everything(device: SystemdDevice, top: str = "/") -> list[str]:
    """Each file of the device: name, mode, owner, and the content of what is configuration."""
    return device.exec("python3", "-c", SNAPSHOT, top, *OWN).splitlines()


def unlike(before: list[str], after: list[str]) -> list[str]:
    return sorted(set(before) ^ set(after))


def units_of(folder: str) -> dict[str, str]:
    files = data.path(folder).glob("edgekit-*")
    return {path.name: path.read_text("utf-8") for path in files}


def cuts(device: SystemdDevice, user: str, which: slice = slice(1, None)) -> tuple[int, list[str]]:
    """Cut an enrolment of an account after those steps, counted from 0: none was done.

    `HOME` has the ssh_config(5) of the device.

    Returns:
        How many cuts were tried, and what went wrong, as sentences.
    """
    asked = EnrollRequest(
        user, "python3", "", units_of("deploy/systemd"), units_of("deploy/systemd/user"),
        push_key="ssh-ed25519 AAAA", door=data.path("deploy/door/edgekit-door").read_text(),
    )  # fmt: skip
    before, wrong = everything(device, PLACES), []
    with closing(SshRemote(f"{user}@{device.name}")) as remote:
        arrival = Arrival(remote, asked)
        arrival.decide_scope(default=None)
        arrival.try_linger()
        plan = enroll_plan(arrival.found, arrival.wish())
        drive.enroll(remote, asked, lambda _: None)
        whole = everything(device, PLACES)
        assert unlike(before, whole) != []
        drive.remove(remote, asked, arrival.system)
        assert unlike(before, everything(device, PLACES)) == []
        counts = range(len(plan.steps))[which]
        for turn, count in enumerate(counts):
            at = f"after {plan.steps[count - 1].words}"
            done = arrival.hands.perform(plan.record, plan.steps[:count])
            assert done.failed is None, done.why
            if turn % 2:
                drive.enroll(remote, asked, lambda _: None)
                if paths(everything(device, PLACES)) != paths(whole):
                    wrong.append(f"{at}: enrolling again left something else")
            drive.remove(remote, asked, None if count % 2 else arrival.system)
            if left := unlike(before, everything(device, PLACES)):
                wrong.append(f"{at}: {left}")
    return len(counts), wrong


def paths(lines: list[str]) -> list[str]:
    """The names of files alone."""
    return [line.split(" ", 1)[0] for line in lines]
