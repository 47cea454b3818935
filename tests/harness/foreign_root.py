"""The root file system of the test device for another architecture, nearly without emulation.

To configure 110 packages under emulation took 11 minutes on two busy CPUs. What that makes
(accounts, links of units, compiled modules) is the same on every architecture. So this machine's
root is taken, and the files of the other architecture's packages take the place of its own.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

CPUINFO = "/etc/emulated-cpuinfo"  # on the device: what /proc/cpuinfo has to be
# What only this machine's root has; the database of packages would name the wrong ones.
NATIVE = ("*x86_64-linux-gnu*", "usr/lib64", "lib64", "var/lib/dpkg")
# What is configured stays. A Python module keeps its time, by which its compiled form is known.
CONFIGURED = ("./etc/*", "*.py", "./dev/*")
# What systemd asks of the kernel for these ends with an error under qemu 7.2: EIO for namespaces
# that units share, EINVAL for that of users. And in a /proc of its own a unit would find this
# machine's CPU.
DROP_IN = f"""
[Service]
PrivateNetwork=no
PrivateIPC=no
PrivateUsers=no
LoadCredential=
SetCredential=
BindReadOnlyPaths=-{CPUINFO}:/proc/cpuinfo
"""
ELF, MACHINE, X86_64 = b"\x7fELF", slice(18, 20), b"\x3e\x00"  # e_machine of elf(5)


def installed(native: Path) -> list[str]:
    """The packages of a root file system, given as a tar."""
    argv = ["tar", "--extract", "--to-stdout", f"--file={native}", "var/lib/dpkg/status"]
    status = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout
    return re.findall(r"^Package: (\S+)$", status, re.MULTILINE)


def replace_packages(root: Path, native: Path, foreign: Path) -> None:
    """Make a root file system within `emulated_arm64()`.

    Args:
        root: the folder that is made.
        native: a tar of this machine's root, whose packages are configured.
        foreign: a tar of the other architecture's packages, which are unpacked and no more.
    """
    root.mkdir()
    _unpack(root, native, *(f"--exclude={name}" for name in NATIVE))
    _unpack(root, foreign, *(f"--exclude={name}" for name in CONFIGURED))
    _unpack(root, foreign, "--skip-old-files", "--exclude=./dev/*", "--exclude=./var/lib/dpkg")
    subprocess.run(["chroot", str(root), "/sbin/ldconfig"], check=True, timeout=120)
    drop_in = root / "usr/lib/systemd/system/service.d/emulation.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(DROP_IN, "ascii")
    left = [str(path) for path in root.rglob("*") if not path.is_symlink() and _native(path)]
    assert not left, f"files of this machine's architecture are left: {left[:10]}"


def _unpack(root: Path, tar: Path, *options: str) -> None:
    argv = ["tar", "--extract", "--numeric-owner", "--preserve-permissions"]
    argv += ["--keep-directory-symlink", f"--directory={root}", f"--file={tar}", *options]
    subprocess.run(argv, check=True, timeout=300)


def _native(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(20)
    return head.startswith(ELF) and head[MACHINE] == X86_64
