"""A device of its own: Debian with a real systemd, sshd and cron, in a container (podman, runc).

    with systemd_device(folder) as device:          # about 2 s; needs root
        device.exec("systemctl", "status")           # as root, without the network
        device.ssh("systemctl --user status", user="pi")
        device.reboot(), device.cut_power()          # its files stay
    device.address, device.host_address              # the two ends of its cable

Its only network is a cable (veth) to this host: a broker that listens on `host_address` is reached
from both sides. `device.unplug()` pulls the cable. It has the accounts `root`, `pi` (no sudo) and
`admin` (sudo without a password), which take the key `device.identity`.

The root file system is made once, by `containers/device`, and kept in edgekit's cache. Within
`emulated_arm64()` there are devices of arm64, too.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock

from edgekit.data import cache_root
from tests import tools
from tests.harness import foreign_root
from tests.harness.emulation import cpuinfo
from tests.harness.foreign_root import installed, replace_packages
from tests.tools import eventually

RECIPE = Path(__file__).parents[2] / "containers" / "device"
SUITE = "bookworm"
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/i18n/*")
BOOT_SECONDS = 180.0  # on a machine that others use, too
ACCOUNTS = {"root": "/root", "pi": "/home/pi", "admin": "/home/admin"}
FILES = 20_000  # open files and processes of a container; more than the host's limit is refused
LOGIN = """
key=$(cat)
for account in $1; do
    folder=${account#*:}/.ssh
    mkdir -p "$folder" && printf '%s\\n' "$key" > "$folder/authorized_keys"
    chmod 600 "$folder/authorized_keys" && chown -R "${account%%:*}:" "$folder"
done
cat /etc/ssh/ssh_host_ed25519_key.pub
"""
CONFIG = """[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={files}:{files}"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""


def packages() -> list[str]:
    """The Debian packages of the device."""
    lines = (RECIPE / "packages").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def image_folder(emulates: str = "") -> Path:
    """Where podman keeps the device's image: another recipe has another folder."""
    parts = [path.read_bytes() for path in sorted(RECIPE.iterdir())]
    if emulates:
        parts += [emulates.encode(), Path(foreign_root.__file__).read_bytes()]
    tests_cache = (cache_root() / "tests").resolve()  # podman remembers its folder's name
    return tests_cache / f"device-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}"


def make_image(folder: Path, emulates: str) -> None:
    """Make the root file system and give it to podman."""
    tar = folder / "root.tar"
    folder.mkdir(parents=True)
    if emulates:
        foreign_tar(tar, emulates)
    else:
        hook = f'--customize-hook={RECIPE / "configure"} "$1"'
        bootstrap(tar, packages(), "--variant=minbase", hook)
    changes = ('CMD ["/sbin/init"]', "STOPSIGNAL SIGRTMIN+3")
    options = [word for change in changes for word in ("--change", change)]
    if emulates:
        options += ["--arch", emulates]
    podman(folder, "import", "--quiet", *options, str(tar), "device")
    tar.unlink()


def bootstrap(tar: Path, names: list[str], *options: str) -> None:
    """Make a tar of Debian packages and what they depend on."""
    subprocess.run(
        [tools.find("mmdebstrap"), "--quiet", f"--include={','.join(names)}", *options]
        + [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
        + [SUITE, str(tar)],
        check=True,
        timeout=900,
    )


def foreign_tar(tar: Path, emulates: str) -> None:
    """Make the root file system for another architecture out of this machine's."""
    native, name = ready_image(), tar.parent.name
    with tempfile.TemporaryDirectory(dir=tar.parent) as folder:
        ours, theirs, root = (Path(folder, part) for part in ("ours", "theirs", "root"))
        podman(native, "create", "--name", name, "device")
        try:
            podman(native, "export", f"--output={ours}", name)
        finally:
            podman(native, "rm", "--force", "--ignore", name)
        unpacked = ("--variant=extract", f"--architectures={emulates}", "--skip=check/qemu")
        bootstrap(theirs, installed(ours), *unpacked, "--format=tar")
        replace_packages(root, ours, theirs)
        argv = ["tar", "--create", "--numeric-owner", f"--file={tar}", f"--directory={root}", "."]
        subprocess.run(argv, check=True, timeout=300)


def podman(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """Run podman on the store of the device's image."""
    config = folder / "containers.conf"
    if not config.exists():
        files = min(FILES, *resource.getrlimit(resource.RLIMIT_NOFILE)[1:])
        config.write_text(CONFIG.format(files=files), "utf-8")
    # podman takes no longer path than 50 characters
    run = f"/run/edgekit-{hashlib.sha256(bytes(folder)).hexdigest()[:16]}"
    done = subprocess.run(
        [tools.find("podman"), "--root", folder / "store", "--runroot", run, *arguments],
        env=os.environ | {"CONTAINERS_CONF": str(config)},
        input=stdin,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"podman {arguments}: {done.stdout!r} {done.stderr!r}"
    return done.stdout


@dataclass
class SystemdDevice:
    """One running device."""

    image: Path
    folder: Path
    name: str
    address: str
    host_address: str
    hostname: str = ""  # its own name, and that in the ssh configuration; empty: `name`
    emulates: str = ""  # the architecture that qemu emulates; empty: this machine's
    known_hosts: Path = field(init=False)
    identity: Path = field(init=False)

    def __post_init__(self) -> None:
        self.known_hosts, self.identity = self.folder / "known_hosts", self.folder / "id_ed25519"

    def exec(self, *argv: str, stdin: bytes = b"") -> str:
        """Run a command as root, not over the network; it must succeed."""
        return podman(self.image, "exec", "-i", self.name, *argv, stdin=stdin).decode()

    def code(self, *argv: str) -> int:
        """The exit code of a command, run as root."""
        line = 'out=$("$@" 2>&1); echo $?'
        return int(self.exec("sh", "-c", line, "sh", *argv))

    def write(self, path: str, data: bytes, mode: str = "644") -> None:
        """Write a file of root."""
        line = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        self.exec("sh", "-c", line, "sh", path, mode, stdin=data)

    def ssh_command(self, user: str = "root", *options: str) -> list[str]:
        """The command line of OpenSSH, to which a command can be added."""
        return [
            *("ssh", "-F", "none", "-i", str(self.identity), "-o", "BatchMode=yes"),
            *("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "ConnectTimeout=10"),
            *(*options, f"{user}@{self.address}"),
        ]

    def ssh(
        self, command: str, user: str = "root", stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell command over SSH."""
        return subprocess.run(
            [*self.ssh_command(user), command],
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )

    def start(self, memory: str) -> None:
        """Start its container in its network namespace, and wait until it has booted."""
        emulated: tuple[str, ...] = ()
        if self.emulates:
            cpus = self.folder / f"{self.name}.cpuinfo"
            cpus.write_text(cpuinfo(), "ascii")
            emulated = ("--arch", self.emulates)
            for place in ("/proc/cpuinfo", foreign_root.CPUINFO):
                emulated += ("--volume", f"{cpus}:{place}:ro")
        podman(
            self.image,
            *("run", "--detach", "--name", self.name, "--hostname", self.hostname or self.name),
            *emulated,
            # SYS_ADMIN for the name spaces of units; SYS_PTRACE for PrivateUsers with ProtectProc
            *("--systemd=always", "--cap-add", "SYS_ADMIN,SYS_PTRACE"),
            *("--network", f"ns:/run/netns/{self.name}", "--memory", memory, "device"),
        )
        self.wait()

    def wait(self) -> None:
        """Wait until the device has booted and its sshd answers.

        Its container runs already: an address that nobody has is never dialled.
        """
        eventually(self._listens, BOOT_SECONDS, "the device's sshd answers")
        state = self.exec("sh", "-c", "systemctl is-system-running --wait || true").strip()
        assert state in ("running", "degraded"), state

    def _listens(self) -> bool:
        with socket.socket() as sock:
            sock.settimeout(20.0)
            with suppress(OSError):  # also that nothing came within the time
                sock.connect((self.address, 22))
                return sock.recv(4) == b"SSH-"
            return False

    def reboot(self) -> None:
        """Restart its init, as `reboot` does: every unit is stopped first."""
        podman(self.image, "restart", "--time", "120", self.name)
        self.wait()

    def cut_power(self) -> None:
        """Kill everything at once and start it again."""
        podman(self.image, "kill", self.name)
        podman(self.image, "start", self.name)
        self.wait()

    def unplug(self) -> None:
        """Pull its cable."""
        ip("link", "set", self.name, "down")

    def plug(self) -> None:
        """Put its cable back, and wait until its sshd answers through it."""
        ip("link", "set", self.name, "up")
        eventually(self._listens, BOOT_SECONDS, "the device's sshd answers")

    def ssh_config(self) -> str:
        """Lines of an ssh_config(5) for a `Host` of that name; user and root are not told."""
        return (
            f"Host {self.hostname or self.name}\n  HostName {self.address}\n"
            f"  IdentityFile {self.identity}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n"
        )

    def login(self) -> None:
        """Let its accounts take our key, and note its host key."""
        if not self.identity.exists():
            keygen = tools.find("ssh-keygen")
            argv = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(self.identity)]
            subprocess.run(argv, check=True)
        public = self.identity.with_suffix(".pub").read_bytes()
        accounts = " ".join(f"{user}:{home}" for user, home in ACCOUNTS.items())
        told = self.exec("sh", "-c", LOGIN, "sh", accounts, stdin=public)
        kind, key, *_ = told.split()
        with self.known_hosts.open("a") as file:
            file.write(f"{self.address} {kind} {key}\n")


def ip(*arguments: str) -> None:
    """Run ip(8), which must succeed."""
    subprocess.run([tools.find("ip"), *arguments], check=True, capture_output=True, timeout=30)


def _cable() -> int:
    """Lay a cable between this host and a new network namespace; its number names both."""
    for number in range(os.getpid() % 4000, 16_000):
        name = f"ekdev{number}"
        try:
            ip("netns", "add", name)
        except subprocess.CalledProcessError:
            continue  # another process has it
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        host, device = _addresses(number)
        ip("addr", "add", f"{host}/30", "dev", name)
        ip("link", "set", name, "up")
        for link in ("eth0", "lo"):
            ip("-n", name, "link", "set", link, "up")
        ip("-n", name, "addr", "add", f"{device}/30", "dev", "eth0")
        return number
    raise AssertionError("no network namespace is free")


def _addresses(number: int) -> tuple[str, str]:
    """The addresses of a cable's ends: this host's and the device's."""

    def of(end: int) -> str:
        return f"10.231.{(4 * number + end) >> 8}.{(4 * number + end) & 255}"

    return of(1), of(2)


def ready_image(emulates: str = "") -> Path:
    """The folder of the device's image, which the first one to ask makes.

    Args:
        emulates: `arm64` within `emulated_arm64()`; empty: this machine's architecture.
    """
    image = image_folder(emulates)
    image.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{image}.lock"):
        if not (image / "made").exists():
            shutil.rmtree(image, ignore_errors=True)
            make_image(image, emulates)
            (image / "made").touch()
    return image


@contextmanager
def systemd_device(folder: Path, *, memory: str = "1g") -> Iterator[SystemdDevice]:
    """A device for the length of a block; `folder` takes the key with which one logs in."""
    if os.geteuid() != 0:
        pytest.skip("a device with a network namespace needs root")
    folder.mkdir(parents=True, exist_ok=True)
    image = ready_image()
    number = _cable()
    name = f"ekdev{number}"
    host, address = _addresses(number)
    device = SystemdDevice(image, folder, name, address, host)
    try:
        device.start(memory)
        device.login()
        yield device
    finally:
        podman(image, "rm", "--force", "--ignore", "--time", "0", name)
        subprocess.run([tools.find("ip"), "link", "del", name], check=False, timeout=30)
        ip("netns", "del", name)
