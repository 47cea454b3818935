"""The image for building models: the host fetches the packages, the engine builds offline.

Two builds from the same packages give the same digest. The engine's flags are in `engine.py`, the
steps in `containers/builder/Containerfile`. The base is a root file system that mmdebstrap makes
from Debian's packages, or any image named by digest in `EDGEKIT_BUILDER_BASE`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

import msgspec

from edgekit import data
from edgekit.builder.files import keep_log, scratch
from edgekit.builder.tools.engine import HOST_INSTEAD, Engine, ask
from edgekit.builder.tools.failure import failure
from edgekit.builder.tools.host import (
    INSTALL_DEADLINE_SECONDS,
    PYTHON_VERSION,
    TORCH_CPU_INDEX,
    lacks_torch,
    pip_environment,
)
from edgekit.builder.tools.process import ProcessResult, clean_environment, run
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.data import cache_root
from edgekit.errors import EdgekitError, UsageError

SOURCE_DATE_EPOCH = 1735689600  # 2025-01-01T00:00:00Z; any constant
BASE_VARIABLE = "EDGEKIT_BUILDER_BASE"
PYTHON = "/opt/toolchain/bin/python"
STEP_DEADLINE_SECONDS = 3600
_FAILED_LOG = "last-failed-image.log"

DEBIAN_SUITE = "bookworm"  # its python3 is 3.11
DEBIAN_PACKAGES = ("ca-certificates", "libgomp1", "libstdc++6", "python3-minimal", "python3-venv")
# files that depend on the host or the time of the installation
_NOT_IN_THE_IMAGE = (
    'rm -rf "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/etc/machine-id "$1"/var/log/* '
    '"$1"/var/cache/ldconfig/* "$1"/var/lib/apt/lists/*'
)
# newest first; a wheel's tag is one of these (PEP 600)
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)),
    "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64",
)  # fmt: skip


class BuilderImage(msgspec.Struct, frozen=True):
    """The image of one lock in one engine's store.

    Attributes:
        engine: builds and stores the image.
        lock: the toolchain's lock file.
        base: an image by digest, or empty for Debian's packages.
        tag_prefix: name of the image in the store.
    """

    engine: Engine
    lock: Path
    base: str = ""
    tag_prefix: str = "localhost/edgekit-builder"

    @property
    def tag(self) -> str:
        """Name and tag, by digest of the inputs: another lock or Containerfile is another image."""
        made_from = hashlib.sha256()
        for part in (
            data.path("containers/builder/Containerfile").read_bytes(),
            self.lock.read_bytes(),
            (self.base or " ".join((DEBIAN_SUITE, *DEBIAN_PACKAGES))).encode(),
        ):
            made_from.update(hashlib.sha256(part).digest())
        return f"{self.tag_prefix}:{made_from.hexdigest()[:16]}"

    def digest(self) -> str:
        """The image's digest (`sha256:…`) in the engine's store; empty when it is missing."""
        form = "{{.Digest}}" if self.engine.name == "podman" else "{{.Id}}"
        done = ask([*self.engine.argv, "image", "inspect", "--format", form, self.tag])
        return done.stdout.strip() if done.returncode == 0 else ""

    def make(self, report: ProgressCallback) -> str:
        """Build the image from scratch, even if it exists, and return its digest.

        Raises:
            EdgekitError: a step failed; only the engine's own cache is left behind.
        """
        with scratch(cache_root() / "image") as work:
            context = work / "context"
            context.mkdir()
            shutil.copyfile(
                data.path("containers/builder/Containerfile"), context / "Containerfile"
            )
            shutil.copyfile(self.lock, context / "toolchain.lock")
            self._wheels(context / "wheels", work / "pip.log", report)
            base = self.base
            if base:
                with tarfile.open(context / "rootfs.tar", "w"):
                    pass  # the unused stage of the Containerfile needs the file to exist
            else:
                self._rootfs(context / "rootfs.tar", work / "mmdebstrap.log", report)
                base = f"{self.tag}-base"
                self._build(work, base, "debian", {}, report)
            self._build(work, self.tag, "", {"BASE": base}, report)
        return self.digest()

    def _wheels(self, folder: Path, log: Path, report: ProgressCallback) -> None:
        finished = self._download(folder, log, report)
        if lacks_torch(finished):
            finished = self._download(folder, log, report, "--extra-index-url", TORCH_CPU_INDEX)
        if finished.code != 0:
            raise failure(
                finished, "the toolchain's packages could not be fetched",
                "pip uses your own configuration; check that it reaches a package index",
            )  # fmt: skip

    def _download(
        self, folder: Path, log: Path, report: ProgressCallback, *extra: str
    ) -> ProcessResult:
        return run(
            [
                sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps",
                "--only-binary=:all:", "--no-input", "--disable-pip-version-check",
                "--progress-bar=off", "--python-version", PYTHON_VERSION, "--implementation", "cp",
                *(f"--platform={tag}" for tag in _PLATFORMS), *extra,
                "--dest", str(folder), "--requirement", str(self.lock),
            ],
            shows=Progress("image", "fetching the toolchain"), log=log,
            environment=pip_environment(), deadline_seconds=INSTALL_DEADLINE_SECONDS, report=report,
        )  # fmt: skip

    def _rootfs(self, out: Path, log: Path, report: ProgressCallback) -> None:
        if not shutil.which("mmdebstrap"):
            raise EdgekitError(
                "the build image has no base to start from",
                why="mmdebstrap, which makes it from Debian's packages, is not on this machine",
                next_step=f"install mmdebstrap, or name an image by digest in {BASE_VARIABLE} "
                f"(any with Python {PYTHON_VERSION}, like python@sha256:…), or {HOST_INSTEAD}",
            )
        without = ("man/*", "doc/*", "locale/*", "info/*")
        finished = run(
            [
                "mmdebstrap", "--variant=apt", f"--include={','.join(DEBIAN_PACKAGES)}",
                *(f"--dpkgopt=path-exclude=/usr/share/{folder}" for folder in without),
                "--dpkgopt=path-include=/usr/share/doc/*/copyright",
                f"--customize-hook={_NOT_IN_THE_IMAGE}", DEBIAN_SUITE, str(out),
            ],
            shows=Progress("image", "installing Debian's packages"), log=log,
            environment=clean_environment({"SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH)}),
            deadline_seconds=STEP_DEADLINE_SECONDS, report=report,
        )  # fmt: skip
        if finished.code != 0:
            raise failure(
                finished, "the build image's base could not be made",
                f"check that Debian's archive can be reached, or {HOST_INSTEAD}",
            )  # fmt: skip

    def _build(
        self, work: Path, tag: str, target: str, arguments: dict[str, str], report: ProgressCallback
    ) -> None:
        detail = "packing the base" if target else "installing the toolchain, without network"
        finished = run(
            self.engine.build(work / "context", tag, SOURCE_DATE_EPOCH, arguments, target),
            shows=Progress("image", detail), log=work / "build.log",
            environment=dict(os.environ), deadline_seconds=STEP_DEADLINE_SECONDS, report=report,
        )  # fmt: skip
        if finished.code != 0:
            kept = keep_log(work / "build.log", _FAILED_LOG)
            raise failure(
                finished,
                f"{self.engine.name} could not build the build image",
                f"its output is in {kept}; or {HOST_INSTEAD}",
            )


def base_from(environment: str) -> str:
    """The value of `EDGEKIT_BUILDER_BASE`, checked: an image by digest, or empty.

    Raises:
        UsageError: it names an image by tag, and a tag can move to another image.
    """
    if environment and not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", environment):
        raise UsageError(
            f"{BASE_VARIABLE} is not pinned: {environment}",
            next_step="name the image by digest, like docker.io/library/python@sha256:…",
        )
    return environment
