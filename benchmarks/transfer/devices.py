"""Devices that files are sent to, and each way of sending them, with its time and its CPU."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError
from tests import tools

MEMORY = Path("/dev/shm")  # no disk of ours is measured
SECONDS = 600.0


@dataclass(frozen=True)
class Sending:
    """One way, measured once: seconds and CPU seconds; memory in bytes, 0 where it is not known."""

    seconds: float
    cpu: float  # of the controller
    device_cpu: float
    rss: float = 0.0


class Devices:
    """Folders behind one sshd of this machine.

    Args:
        folder: where everything lies.
        server: the sshd's port and keys.
        host: the process that runs it and counts its CPU.
    """

    def __init__(self, folder: Path, host: subprocess.Popen[str], config: Path) -> None:
        self._folder, self._host, self._config = folder, host, config
        self.home = folder / "home"  # its ~/.ssh/config knows the host `device`

    def file(self, size: int) -> Path:
        """A file of random bytes."""
        path = self._folder / f"source-{size}"
        if not path.exists():
            with path.open("wb") as file:
                for _ in range(0, size, 1 << 20):
                    file.write(os.urandom(1 << 20))
        return path

    def pull(self, source: Path, count: int = 1) -> Sending:
        """By edgekit."""
        return self._python("pull", source, count)

    def verified(self, source: Path, count: int = 1) -> Sending:
        """By edgekit, with the hash of what was stored."""
        return self._python("verified", source, count)

    def session(self, source: Path, count: int = 1) -> Sending:
        """By edgekit, without forwarding."""
        return self._python("session", source, count)

    def fabric(self, source: Path, count: int = 1) -> Sending:
        """By fabric's `put`."""
        return self._python("fabric", source, count)

    def rsync(self, source: Path) -> Sending:
        """By rsync, whole files, over ssh with its own choice of a cipher."""
        ssh = f"ssh -F {self._config}"
        argv = ["rsync", "-W", "-e", ssh, str(source)]
        return self._commands([[*argv, f"device:{self._target(0)}"]], source)

    def scp(self, source: Path, count: int = 1) -> Sending:
        """By as many scp at once, with ssh's own choice of a cipher."""
        argv = ["scp", "-q", "-F", str(self._config), str(source)]
        return self._commands(
            [[*argv, f"device:{self._target(number)}"] for number in range(count)], source
        )

    def _target(self, number: int) -> Path:
        return self._folder / f"target-{number}"

    def _python(self, how: str, source: Path, count: int) -> Sending:
        before = self._device_cpu()
        targets = [str(self._target(number)) for number in range(count)]
        argv = [sys.executable, "-m", "benchmarks.transfer.sender", how, str(source), *targets]
        done = subprocess.run(
            argv, capture_output=True, env=self._environment, timeout=SECONDS, check=False
        )
        if done.returncode != 0:
            raise EdgekitError(f"{how} failed", done.stderr.decode("utf-8", "replace")[-1000:])
        self._check(source, count)
        told = json.loads(done.stdout)
        taken = self._device_cpu() - before
        return Sending(told["seconds"], told["cpu"], taken, told["rss"])

    def _commands(self, commands: list[list[str]], source: Path) -> Sending:
        before, ours = self._device_cpu(), _children()
        began = time.perf_counter()
        running = [subprocess.Popen(argv, env=self._environment) for argv in commands]
        codes = [process.wait(SECONDS) for process in running]
        seconds = time.perf_counter() - began
        if any(codes):
            raise EdgekitError(f"{commands[0][0]} failed with {max(codes)}")
        cpu = _children() - ours
        self._check(source, len(commands))
        return Sending(seconds, cpu, self._device_cpu() - before)

    @property
    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
        return kept | {"HOME": str(self.home)}

    def _check(self, source: Path, count: int) -> None:
        """Every target has every byte; then it is removed."""
        for number in range(count):
            target = self._target(number)
            if target.stat().st_size != source.stat().st_size:
                raise EdgekitError(f"{target} is not whole")
            target.unlink()

    def _device_cpu(self) -> float:
        assert self._host.stdin
        assert self._host.stdout
        self._host.stdin.write("\n")
        self._host.stdin.flush()
        return float(self._host.stdout.readline())


def _children() -> float:
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken.ru_utime + taken.ru_stime


@contextmanager
def devices(rtt_ms: float = 0.0) -> Iterator[Devices]:
    """Devices behind an sshd of this machine, and behind a proxy that delays if that is asked."""
    for name in ("rsync", "scp"):
        if shutil.which(name) is None:
            raise EdgekitError(f"{name} is not installed", next_step=f"apt install {name}")
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="edgekit-transfer-", dir=place) as name:
        folder = Path(name)
        home = folder / "home" / ".ssh"
        home.mkdir(mode=0o700, parents=True)
        account = folder / "account"  # login scripts of this machine's user are no device's
        account.mkdir()
        more = f"Subsystem sftp internal-sftp\nSetEnv HOME={account}\n"
        keys, config = tools.sshd_files(folder, more)
        with _running([tools.find("sshd"), str(config)], "host") as host:
            tools.wait_for_port(keys.port, host)
            if rtt_ms:
                with _running([str(keys.port), str(rtt_ms)], "delay") as proxy:
                    assert proxy.stdout
                    port = int(proxy.stdout.readline())
                    yield Devices(folder, host, _client(home, keys, port))
            else:
                yield Devices(folder, host, _client(home, keys, keys.port))


def _client(home: Path, keys: tools.Sshd, port: int) -> Path:
    """ssh's configuration for the host `device`."""
    known = home / "known_hosts"
    known.write_text(keys.known_hosts.read_text().replace(f"]:{keys.port} ", f"]:{port} "))
    config = home / "config"
    config.write_text(
        f"Host device\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {keys.identity}\n"
        f"  UserKnownHostsFile {known}\n"
    )
    return config


@contextmanager
def _running(arguments: list[str], module: str) -> Iterator[subprocess.Popen[str]]:
    """A process of this package."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.transfer.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    try:
        yield process
    finally:
        process.stdin.close()
        if module != "host":
            process.terminate()
        process.wait(10)
