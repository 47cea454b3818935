"""Programs for arm64 on this x86-64 machine, by qemu's user emulation: `with emulated_arm64():`.

The kernel is told in a binfmt_misc of our own mount, whatever lies at /proc/sys/fs/binfmt_misc.
With the flag F it opens the emulator at once, so that chroots and containers have it as well. What
was told before is left alone, and ours goes with the last block of all processes; that of a killed
process goes with it (Linux 6.7 and newer) or with the next block.
"""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import tools

NAME = "edgekit-aarch64"
# what Debian's package has for systemd-binfmt(8): magic number, mask, emulator, flags
FORMAT = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
USERS = Path("/run/edgekit-binfmt.users")  # locked by each process that is in a block
CHANGE = Path("/run/edgekit-binfmt.lock")  # locked while it is told, or taken back
# What the default CPU of qemu 7.2 (`max`) has by AT_HWCAP and AT_HWCAP2, as Linux spells it.
# Its /proc/cpuinfo is this machine's own, at which onnxruntime ends with SIGSEGV.
FEATURES = (
    "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop "
    "sha3 sm3 sm4 asimddp sha512 sve asimdfhm ilrcpc flagm sb paca pacg dcpodp sve2 sveaes "
    "svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16 "
    "rng bti mte sme smei16i64 smef64f64 smei8i32 smef16f32 smeb16f32 smef32f32 smefa64"
)
CPU = """\
processor\t: {number}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x00
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0x051
CPU revision\t: 0

"""


@contextmanager
def emulated_arm64() -> Iterator[None]:
    """Programs for arm64 run on this machine for the length of a block."""
    if os.geteuid() != 0:
        pytest.skip("telling the kernel of an emulator needs root")
    machine = platform.machine()
    assert machine == "x86_64", f"arm64 is emulated on x86-64 alone, and this machine is {machine}"
    tools.find("qemu-aarch64-static")
    users = os.open(USERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with _changing() as formats:
            fcntl.flock(users, fcntl.LOCK_SH)
            if not (formats / NAME).exists():
                _tell(formats)
            # Since Linux 6.7 the kernel forgets everything with the last mount: this keeps it.
            mounted = os.open(formats, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield
        finally:
            os.close(mounted)
            with _changing() as formats:
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass  # another process is in a block
                else:
                    if (formats / NAME).exists():  # else the last mount took it along
                        (formats / NAME).write_text("-1")
    finally:
        os.close(users)


def registered() -> bool:
    """Whether the kernel knows our emulator."""
    with _changing() as formats:
        return (formats / NAME).exists()


def _tell(formats: Path) -> None:
    _, _, rest = FORMAT.read_text("ascii").strip().removeprefix(":").partition(":")
    assert "F" in rest.rpartition(":")[2], f"{FORMAT} has no flag F: {rest}"
    (formats / "register").write_text(f":{NAME}:{rest}")


@contextmanager
def _changing() -> Iterator[Path]:
    """The folder of binfmt_misc, which one process at a time looks at."""
    lock = os.open(CHANGE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with tempfile.TemporaryDirectory(prefix="edgekit-binfmt-") as folder:
            mount = ["mount", "-t", "binfmt_misc", "binfmt_misc", folder]
            done = subprocess.run(mount, capture_output=True, text=True, timeout=30, check=False)
            if done.returncode != 0:
                pytest.fail(f"this kernel gives no binfmt_misc for arm64: {done.stderr.strip()}")
            try:
                yield Path(folder)
            finally:
                subprocess.run(["umount", "--lazy", folder], check=True, timeout=30)
    finally:
        os.close(lock)


def cpuinfo() -> str:
    """The text of /proc/cpuinfo on an emulated device."""
    count = os.cpu_count() or 1
    return "".join(CPU.format(number=number, features=FEATURES) for number in range(count))
