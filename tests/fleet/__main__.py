"""`make fleet [DEVICES=10] [ARM64=1]`: a fleet of real devices on this machine, until Ctrl-C.

Each device is a container with Debian, systemd and sshd, and an address of its own in a private
network that has no way out. The last ARM64 of them have another architecture, which qemu emulates:
they are 10 to 30 times slower. A Mosquitto listens at this machine's end. A project with SmolLM2 is
made, and all devices are enrolled; the rest is typed by a person. What a killed fleet has left is
taken down first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests import tools
from tests.fleet.devices import MOST, Devices, devices
from tests.fleet.place import LOCKS, sweep
from tests.fleet.project import FleetProject, enroll, project
from tests.show.planted import built_smollm2

NEEDS = ("podman", "runc", "mmdebstrap", "mosquitto", "ip", "nft", "ssh-keygen")
ARM64_NEEDS = ("qemu-aarch64-static",)
NEXT = """
{count} devices are up and enrolled, {names}. In another terminal, as root:

    cd {folder}
    export PATH="{bin}:$PATH"          # `edgekit` with the keys of this fleet

    edgekit fleet check                # what every device is and has
    edgekit push --plan                # what a push would do
    edgekit push --parallel 3          # SmolLM2 to all of them, in waves
    edgekit status                     # how that stands, and how it went
    edgekit state edge-1               # what one runs, and why
    edgekit ask edge-1 "What is the capital of France?"

    edgekit pack MODEL --name other    # another bundle; then `edgekit push` again
    ssh -F {ssh} edge-1                # a shell on a device
    {podman} ps   # the containers

Ctrl-C here takes everything down.
"""
WRAPPER = """#!/bin/sh
HOME={home} XDG_CACHE_HOME={cache} SSH_AUTH_SOCK= exec {python} -m edgekit "$@"
"""


def lacking(arm64: int = 0) -> str:
    """Why this machine cannot have a fleet; empty if it can."""
    if os.geteuid() != 0:
        return (
            "make fleet starts containers with network namespaces, which needs root\n"
            "next: `sudo make fleet`; without root, `make demo` has one device in a folder"
        )
    needs = (*NEEDS, *(ARM64_NEEDS if arm64 else ()))
    packages = sorted({tools.PACKAGES[tool] for tool in needs if not tools.have(tool)})
    if packages:
        return (
            f"make fleet needs packages that are missing: {' '.join(packages)}\n"
            f"next: `apt-get install {' '.join(packages)}`"
        )
    return ""


def say(text: str) -> None:
    """Tell the person."""
    print(text, flush=True)


def next_steps(fleet: Devices, made: FleetProject) -> str:
    """Make the command of this fleet; the text of what can be typed."""
    place, home = made.folder.parent / "bin", made.environment
    place.mkdir()
    wrapper = place / "edgekit"
    cache = home["XDG_CACHE_HOME"]
    wrapper.write_text(WRAPPER.format(home=fleet.home, cache=cache, python=sys.executable))
    wrapper.chmod(0o755)
    image = next(iter(fleet.all.values())).image
    return NEXT.format(
        count=len(fleet.all),
        names=f"edge-1 to edge-{len(fleet.all)}" if len(fleet.all) > 1 else "edge-1",
        folder=made.folder,
        bin=place,
        ssh=fleet.home / ".ssh" / "config",
        podman=f"podman --root {image / 'store'}",
    )


def main() -> int:
    """Bring a fleet up and wait."""
    parser = argparse.ArgumentParser("make fleet", description=__doc__)
    parser.add_argument("devices", type=int, nargs="?", default=10, metavar="DEVICES")
    parser.add_argument("--arm64", type=int, default=0, metavar="N", help="how many are of arm64")
    asked = parser.parse_args()
    if not 0 < asked.devices <= MOST:
        parser.error(f"DEVICES is between 1 and {MOST}, and not {asked.devices}")
    if not 0 <= asked.arm64 <= asked.devices:
        parser.error(f"ARM64 is at most DEVICES, {asked.devices}, and not {asked.arm64}")
    if why := lacking(asked.arm64):
        sys.stderr.write(f"error: {why}\n")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    began = time.monotonic()

    def report(step: str) -> None:
        say(f"{time.monotonic() - began:6.1f} s  {step}")

    LOCKS.mkdir(mode=0o700, exist_ok=True)
    for gone in sweep():
        report(f"took down {gone}, which a killed fleet had left")
    report("SmolLM2, built once and kept in the cache")
    model = built_smollm2()
    folder = Path(tempfile.mkdtemp(prefix="edgekit-fleet-"))
    try:
        with devices(
            folder, asked.devices, arm64=asked.arm64, folder_goes=True, report=report
        ) as fleet:
            made = project(fleet, folder / "project", model, report)
            report("edgekit enroll")
            enroll(made, fleet)
            report("ready")
            say(next_steps(fleet, made))
            signal.pause()
    except KeyboardInterrupt:
        report("everything is taken down")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
