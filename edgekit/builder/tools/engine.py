"""Container engines, podman and docker: detection, and their command lines.

Both take nearly the same arguments; the differences are in this file alone. `find_engine` gathers
the facts about an engine (`Engine`), and the command lines follow from them.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import msgspec

from edgekit.errors import EdgekitError

ASK_TIMEOUT_SECONDS = 60
NOBODY = 65534
PIDS_LIMIT = 4096
MOST = 20_000
"""Limit of open files and of processes, enough for a build; a higher one fails, because podman 4.3
lowers its own limit before it sets ours."""
ENGINES: tuple[Literal["podman", "docker"], ...] = ("podman", "docker")
HOST_INSTEAD = "add --host to build on this machine with the same locked tools"

_ENGINE_ERRORS = (125, 126, 127)
"""Exit codes for a failure of the engine itself; a program's own codes are lower (podman-run(1),
docker run)."""


class Mount(msgspec.Struct, frozen=True):
    """A file or folder that a container sees.

    Attributes:
        path: its path in the container.
        writable: the container may write to it; the default is read-only.
        source: its path on the host; None where it equals `path`.
    """

    path: Path
    writable: bool = False
    source: Path | None = None


class Engine(msgspec.Struct, frozen=True):
    """A container engine that works on this machine.

    Attributes:
        name: `podman` or `docker`.
        version: as the engine prints it.
        runtime: the OCI runtime to name on the command line; empty keeps the engine's default.
        ulimits: `--ulimit` values, where this machine's hard limits are lower than the engine's.
        rootless: the engine runs as the calling user.
    """

    name: Literal["podman", "docker"]
    version: str
    runtime: str = ""
    ulimits: tuple[str, ...] = ()
    rootless: bool = False

    @property
    def argv(self) -> list[str]:
        """The program and its global options, which precede the verb."""
        return [self.name, *(["--runtime", self.runtime] if self.runtime else [])]

    def build(
        self, context: Path, tag: str, epoch: int, arguments: dict[str, str], target: str = ""
    ) -> list[str]:
        """Command to build an image from `context/Containerfile`: offline, uncached, fixed times.

        Args:
            epoch: SOURCE_DATE_EPOCH, in seconds.
            target: the last stage to build; empty builds all.
        """
        return [
            *self.argv, "build", "--network", "none", "--no-cache", *self._limits(),
            *self._reproducible(epoch),
            *_words("--build-arg", arguments),
            *(["--target", target] if target else []),
            "--tag", tag, "--file", str(context / "Containerfile"), str(context),
        ]  # fmt: skip

    def run(
        self,
        image: str,
        argv: list[str],
        *,
        name: str,
        mounts: tuple[Mount, ...],
        work: Path,
        environment: dict[str, str],
        memory_bytes: int | None,
    ) -> list[str]:
        """Command that runs a program with its mounts alone: no network, no rights, read-only root.

        Standard input stays open; the program must end when it closes.
        """
        return [
            *self.argv, "run", "--rm", "--interactive", "--name", name, *self._limits(),
            "--network", "none", "--read-only", "--tmpfs", "/tmp:rw,mode=1777",  # noqa: S108 (inside)
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--security-opt", "label=disable",  # SELinux would need every source relabelled
            "--pids-limit", str(PIDS_LIMIT), *self._user(),
            *(["--memory", str(memory_bytes)] if memory_bytes else []),
            *(word for mount in mounts for word in ("--mount", _mount(mount))),
            *_words("--env", environment),
            "--workdir", str(work), image, *argv,
        ]  # fmt: skip

    def _limits(self) -> list[str]:
        return [word for limit in self.ulimits for word in ("--ulimit", limit)]

    def _reproducible(self, epoch: int) -> list[str]:
        given = ["--build-arg", f"SOURCE_DATE_EPOCH={epoch}"]
        if self.name == "docker":  # BuildKit clamps times by the argument; no attestations go in
            return [*given, "--provenance=false", "--sbom=false"]
        return [
            *given, "--timestamp", str(epoch),
            "--identity-label=false", "--omit-history", "--layers=false",
        ]  # fmt: skip

    def _user(self) -> list[str]:
        if os.geteuid() == 0:
            return ["--user", f"{NOBODY}:{NOBODY}"]
        me = f"{os.geteuid()}:{os.getegid()}"
        return ["--user", me, *(["--userns", "keep-id"] if self.rootless else [])]


def _words(flag: str, values: dict[str, str]) -> list[str]:
    return [word for key, value in values.items() for word in (flag, f"{key}={value}")]


def _mount(mount: Mount) -> str:
    """The value of --mount, a quoted CSV record (RFC 4180): a path may hold any character."""
    source, target = (str(p).replace('"', '""') for p in (mount.source or mount.path, mount.path))
    fields = ["type=bind", f'"source={source}"', f'"target={target}"']
    return ",".join([*fields, *([] if mount.writable else ["readonly"])])


def find_engine() -> Engine:
    """The first installed engine that answers.

    Raises:
        EdgekitError: none is installed, or none answers; the error suggests `--host`.
    """
    found = [name for name in ENGINES if shutil.which(name)]
    if not found:
        raise EdgekitError(
            "there is no container engine on this machine",
            why="neither podman nor docker is on PATH",
            next_step=f"install podman (apt install podman), or {HOST_INSTEAD}",
        )
    broken = []
    for name in found:
        form = "{{.Host.OCIRuntime.Name}} {{.Host.Security.Rootless}} {{.Version.Version}}"
        if name == "docker":
            form = "{{.DefaultRuntime}} false {{.ServerVersion}}"
        done = ask([name, "info", "--format", form])
        words = done.stdout.split()
        if done.returncode == 0 and len(words) == 3:
            runtime, rootless, version = words
            return Engine(
                name,
                version,
                runtime=choose_runtime(
                    name, runtime, _hybrid_cgroups(), bool(shutil.which("runc"))
                ),
                ulimits=clamp({"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}),
                rootless=rootless == "true",
            )
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        broken.append(f"{name}: {said}")
    raise EdgekitError(
        "the container engine does not work", why="; ".join(broken), next_step=HOST_INSTEAD
    )


def choose_runtime(engine: str, own: str, hybrid: bool, has_runc: bool) -> str:
    """The OCI runtime to name: crun does not run where both cgroups v1 and v2 are mounted."""
    return "runc" if engine == "podman" and own == "crun" and hybrid and has_runc else ""


def clamp(limits: dict[str, int]) -> tuple[str, ...]:
    """`--ulimit` values where this machine has hard limits.

    Engines request higher limits by default, and the kernel refuses that without the right to
    raise them.
    """
    hard = {name: resource.getrlimit(which)[1] for name, which in limits.items()}
    return tuple(
        f"{name}={min(value, MOST)}:{min(value, MOST)}"
        for name, value in hard.items()
        if value != resource.RLIM_INFINITY
    )


def ask(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a short command of an engine; a timeout or a start failure is an exit code, too."""
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=ASK_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 124, "", f"no answer in {ASK_TIMEOUT_SECONDS} s")
    except OSError as error:
        return subprocess.CompletedProcess(argv, 126, "", str(error))


def engine_failed(code: int) -> bool:
    """Whether an exit code of `run` means that the engine itself failed."""
    return code in _ENGINE_ERRORS


def _hybrid_cgroups() -> bool:
    root = Path("/sys/fs/cgroup")
    return (root / "unified").is_dir() and not (root / "cgroup.controllers").exists()
