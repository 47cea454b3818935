"""Reads the facts of a device. It runs *there*, piped into `python3`: standard library only.

A device with a door runs its own.

Prints one JSON object; `edgekit.fleet.facts` reads it.
"""

import json
import os
import sys
import time

THERMAL = "/sys/class/thermal"


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read(1 << 20)
    except (OSError, ValueError):
        return ""


def whole(root: str) -> "tuple[str, str]":
    """The absolute path of a root, and why it can be none."""
    if not os.path.isabs(os.environ.get("HOME", "")):
        os.environ.pop("HOME", None)  # `expanduser` then asks the list of accounts
    found = os.path.expanduser(root or "~/.local/share/edgekit")
    problem = ""
    if found.startswith("~"):
        problem = found.split("/", 1)[0] + " is the home of no account there"
    found = os.path.abspath(found)
    try:
        found.encode("utf-8")
    except UnicodeEncodeError:
        problem = "its name is not UTF-8"
        found = found.encode("utf-8", "backslashreplace").decode("utf-8")
    return found, problem


def places(root: str) -> "list[str]":
    """What tells this ROOT from every other: the folder, then each one above it.

    Each is the boot of the machine, the folder's file system and number there, and the path from
    it to ROOT. The first is of the last folder that is there. Empty where the boot has no name.
    """
    boot = read("/proc/sys/kernel/random/boot_id").strip()
    here, rest, found = os.path.realpath(root), "", []
    while boot:
        try:
            known = os.stat(here)
            name = os.fsencode(rest).decode("utf-8", "backslashreplace")
            found.append("%s %d %d %s" % (boot, known.st_dev, known.st_ino, name))
        except OSError:
            pass
        if os.path.dirname(here) == here:
            break
        rest = os.path.join(os.path.basename(here), rest) if rest else os.path.basename(here)
        here = os.path.dirname(here)
    return found


def cpu_flags() -> str:
    """What every CPU can do, as /proc/cpuinfo says it; empty where it does not say."""
    lines = [line.partition(":") for line in read("/proc/cpuinfo").splitlines()]
    each = [set(rest.split()) for name, _, rest in lines if name.strip() in ("flags", "Features")]
    return " ".join(sorted(set.intersection(*each))) if each else ""


def machine() -> str:
    """The machine for which this Python was built, as uname spells it.

    A system of 32 bits may have a kernel of 64, as Raspberry Pi OS does: its Python loads nothing
    that is made for what the kernel says.
    """
    name = os.uname().machine
    if sys.maxsize >= 1 << 32:
        return name
    return {"aarch64": "armv8l", "x86_64": "i686"}.get(name, name)


def memory_limits(own: str, mounts: str) -> "list[str]":
    """The files with the memory limits of a process's control group and of all those above it.

    Args:
        own: the text of its /proc/PID/cgroup (cgroups(7)).
        mounts: the text of /proc/self/mountinfo (proc(5)). A container may see its own group alone,
            as the root of the mount.
    """
    groups = [line.split(":", 2) for line in own.splitlines() if line.count(":") >= 2]
    found = []
    for line in mounts.splitlines():
        place, _, kind = line.partition(" - ")
        words, told = place.split(" "), kind.split(" ")
        if told[0] == "cgroup2":
            name, mine = "memory.max", [path for number, _, path in groups if number == "0"]
        elif told[0] == "cgroup" and "memory" in told[-1].split(","):
            name = "memory.limit_in_bytes"
            mine = [path for _, kinds, path in groups if "memory" in kinds.split(",")]
        else:
            continue
        top, folder = words[3].rstrip("/"), words[4]
        for path in mine:
            inside = (path + "/").startswith(top + "/") and ".." not in path.split("/")
            here = folder + path[len(top) :].rstrip("/") if inside else folder
            while len(here) > len(folder):
                found.append(here + "/" + name)
                here = here.rpartition("/")[0]
            found.append(folder + "/" + name)
    return found


def memory(root: str) -> int:
    """The bytes of memory that the agent may fill: the machine's, or those of a lower limit.

    An agent that runs has the limits of its own control group, such as those of its service. One
    that is started by this session has this session's.
    """
    process = read(os.path.join(root, "run", "supervisor.pid")).strip()
    own = ""
    if process.isdigit() and "edgekit.agent" in read("/proc/" + process + "/cmdline").split("\0"):
        own = read("/proc/" + process + "/cgroup")
    files = memory_limits(own or read("/proc/self/cgroup"), read("/proc/self/mountinfo"))
    limits = [read(name).strip() for name in files]  # `max`, or a number that none has, is no limit
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine] + [int(text) for text in limits if text.isdigit()])


def temperature() -> "float | None":
    """Degrees Celsius of the hottest sensor; None where there is none that answers."""
    try:  # the import of glob or platform would take longer than all that this file does
        names = [name for name in os.listdir(THERMAL) if name.startswith("thermal_zone")]
    except OSError:
        names = []
    # PMIC-Die of a Jetson is no sensor: it says 100 degrees all the time
    names = [n for n in names if read(os.path.join(THERMAL, n, "type")).strip() != "PMIC-Die"]
    told = [read(os.path.join(THERMAL, name, "temp")).strip() for name in names]
    return max((int(text) / 1000 for text in told if text.lstrip("-").isdigit()), default=None)


def system() -> str:
    """The name of the operating system, as its os-release spells it."""
    for line in (read("/etc/os-release") or read("/usr/lib/os-release")).splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip("\"'")
    return ""


def probe(root: str) -> "dict[str, object]":
    root, problem = whole(root)
    parent = root
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        what = "a link to nothing" if os.path.islink(parent) else "no folder"
        problem = problem or parent + " is " + what
        parent = os.path.dirname(parent)
    place = os.statvfs(parent)
    mount = os.path.realpath(parent)
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    current = os.path.join(root, "current")
    release = os.path.basename(os.readlink(current)) if os.path.islink(current) else ""
    bootstrap = os.path.join(root, "bootstrap")
    try:
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[-1]
    except (ValueError, OSError, IndexError):
        glibc = ""
    return {
        "root": root,
        "machine": machine(),
        "python": "%d.%d" % sys.version_info[:2],
        "executable": sys.executable,
        "glibc": glibc,
        "ram_bytes": memory(root),
        "writable": os.access(parent, os.W_OK | os.X_OK),
        "problem": problem,
        "noexec": mount if place.f_flag & os.ST_NOEXEC else "",
        "free_bytes": place.f_bavail * place.f_frsize,
        "disk_bytes": place.f_blocks * place.f_frsize,
        "cpu_flags": cpu_flags(),
        "current": "sha256:" + release if release else None,
        "manifest": read(os.path.join(root, "blobs", "sha256", release)) if release else "",
        "config": read(os.path.join(root, "etc", "agent.toml")),
        "bootstrap": os.readlink(bootstrap) if os.path.islink(bootstrap) else "",
        "home": os.fsencode(os.path.expanduser("~")).decode("utf-8", "backslashreplace"),
        "supervisor": read(os.path.join(root, "etc", "supervisor")).strip(),
        "enrolled": os.path.lexists(os.path.join(root, "etc", "enrolled.json")),
        "clock": time.time(),
        "temperature": temperature(),
        "system": system(),
        "hardware": read(os.path.join(root, "etc", "hardware")),
        "places": places(root),
    }


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1] if len(sys.argv) > 1 else "")))
