"""What happens to devices in the field, done to one of the fleet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import tools
from tests.fleet import network
from tests.harness.systemd_device import SystemdDevice
from tests.harness.units import ROOT
from tests.tools import eventually

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
SSHD = "/etc/ssh/sshd_config.d/trouble.conf"
PYTHON = """#!/bin/sh
case "$*" in
  *edgekit.agent*stage*) export FAKETIME={offset} DONT_FAKE_MONOTONIC=1 fake=/usr/lib/faketime.so ;;
esac
exec /lib64/ld-linux-x86-64.so.2 ${{fake:+--preload $fake}} --argv0 "$0" {real} "$@"
"""
BALLAST = f"{ROOT}/ballast"
FREE_BYTES = 4 << 20  # that a full disk still has


def lose_blob(device: SystemdDevice) -> None:
    """Take the largest blob's name away, so that a push has to bring it again."""
    device.exec("sh", "-c", f"rm -f $(ls -S {ROOT}/blobs/sha256/* | head -1)")


def wait_for_transfer(device: SystemdDevice) -> None:
    """Wait until a blob is on its way."""
    line = f"ls {ROOT}/blobs/sha256/*.part"
    eventually(lambda: device.code("sh", "-c", line) == 0, 240, "a blob is on its way")


@contextmanager
def full_disk(device: SystemdDevice) -> Iterator[None]:
    """ROOT's disk, a small one, has nearly no byte left."""
    line = f"fallocate -l $(($(df --output=avail -B1 {ROOT} | tail -1) - {FREE_BYTES})) {BALLAST}"
    device.exec("sh", "-c", line)
    try:
        yield
    finally:
        device.exec("rm", "-f", BALLAST)


def small_disk(device: SystemdDevice, megabytes: int) -> None:
    """Give /var/lib a file system of its own, before the device is enrolled."""
    line = f"mount -t tmpfs -o size={megabytes}m,mode=755 tmpfs /mnt"
    device.exec("sh", "-c", f"{line} && cp -a /var/lib/. /mnt && mount --move /mnt /var/lib")


@contextmanager
def other_host_key(device: SystemdDevice) -> Iterator[None]:
    """The device shows another host key, as one that was installed again."""
    keys, kept = "/etc/ssh/ssh_host_*", "/var/tmp/kept"
    device.exec("sh", "-c", f"mkdir {kept}; mv {keys} {kept}; ssh-keygen -A; {_RESTART}")
    try:
        yield
    finally:
        device.exec("sh", "-c", f"mv -f {kept}/* /etc/ssh; rmdir {kept}; {_RESTART}")


@contextmanager
def no_forwarding(device: SystemdDevice) -> Iterator[None]:
    """The device's sshd forwards nothing, as on hardened images."""
    device.write(SSHD, b"AllowTcpForwarding no\n")
    device.exec("sh", "-c", _RESTART)
    try:
        yield
    finally:
        device.exec("sh", "-c", f"rm -f {SSHD}; {_RESTART}")


@contextmanager
def lossy(device: SystemdDevice, percent: float) -> Iterator[None]:
    """This share of the packets to and from the device is lost."""
    network.lose(device.name, percent)
    try:
        yield
    finally:
        network.lose(device.name, 0)


@contextmanager
def wrong_clock(device: SystemdDevice, offset: str) -> Iterator[None]:
    """`agent stage`, which asks the clock, has another time on the device, like `+73y`.

    The kernel's clock is this machine's own. libfaketime in sshd would break its sandbox, and in
    the door it refuses short sleeps with EINVAL now and then.
    """
    assert FAKETIME.exists(), f"install the package {tools.PACKAGES['faketime']}"
    device.write("/usr/lib/faketime.so", FAKETIME.read_bytes(), "755")
    python = device.exec("readlink", "-f", "/usr/bin/python3").strip()
    device.exec("mv", python, f"{python}.real")
    device.write(python, PYTHON.format(offset=offset, real=f"{python}.real").encode(), "755")
    try:
        yield
    finally:
        device.exec("mv", "-f", f"{python}.real", python)


_RESTART = "systemctl restart ssh"
