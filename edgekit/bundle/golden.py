"""The layer of golden prompts: what a device's trial asks of the model (docs/adr/0024).

The prompts are recorded by the agent's own worker code, on the runtime that devices get, in a
process of its own. Two packs on one machine give the same bytes: the runtime computes the same
whatever its number of threads, and the record has three decimals. Another CPU has other last
decimals, which the tolerance allows; a bundle that is packed there has another digest.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

import edgekit
from edgekit.bundle.layers import PYTHONS, WHEEL_TAGS, unpacked_runtime
from edgekit.core import layout
from edgekit.core.config import MOST_SECONDS
from edgekit.core.golden import Golden, GoldenPrompt
from edgekit.core.manifest import GOLDEN_TYPE, TITLE, Descriptor, Manifest, oci_platform
from edgekit.errors import EdgekitError, UsageError
from edgekit.store import BlobStore

SOAK_SECONDS = 30.0
RECORD_SECONDS = 900  # a model of 8 billion weights on two slow CPUs
_WITHOUT = "pack on a machine that can run the model, or without the record: --no-golden"

Report = Callable[[str], None]


def check_soak(seconds: float) -> None:
    """Check the length of a soak; raises UsageError."""
    if not 0 <= seconds <= MOST_SECONDS:
        raise UsageError(
            f"--soak {seconds:g} is not usable",
            f"a soak lasts 0 to {MOST_SECONDS:g} seconds",
            "choose 30, or 0 for no soak",
        )


def golden_layer(
    store: BlobStore, prompts: list[GoldenPrompt], soak_seconds: float, made_from: str = ""
) -> list[Descriptor]:
    """Put `golden.json` into the store.

    Args:
        store: of the project.
        prompts: as they were recorded.
        soak_seconds: of a trial.
        made_from: of the model; empty: unknown.

    Returns:
        The layer; empty if there are neither prompts nor a soak.
    """
    if not prompts and not soak_seconds:
        return []
    known = made_from or msgspec.UNSET
    golden = Golden(prompts, soak_seconds=soak_seconds, made_from=known)
    data = msgspec.json.encode(golden, order="sorted")
    return [Descriptor(GOLDEN_TYPE, store.put(data), len(data), {TITLE: layout.GOLDEN})]


def read_golden(store: BlobStore, manifest: Manifest) -> Golden | None:
    """Read the golden prompts of a bundle of this project; None if it has none."""
    layer = manifest.golden
    return None if layer is None else msgspec.json.decode(store.read(layer.digest), type=Golden)


def own_runtime(cache: Path, report: Report, *, pictures: bool = False) -> Path:
    """Return the folder with this machine's runtime, as a device like it has it.

    Args:
        cache: folder that keeps it.
        report: called with progress.
        pictures: for a model that takes pictures.

    Raises:
        UsageError: there is no runtime for this machine.
    """
    here = oci_platform(platform.machine())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here not in WHEEL_TAGS or python not in PYTHONS or sys.platform != "linux":
        raise UsageError(
            "golden prompts cannot be recorded on this machine",
            f"there is no runtime for {sys.platform} {here} with CPython {python}",
            _WITHOUT,
        )
    return unpacked_runtime(cache, here, python, report, pictures=pictures)


@contextmanager
def recording(
    runtime: Path, folder: Path, context: int, report: Report
) -> Iterator[Callable[[], list[GoldenPrompt]]]:
    """Record a model's golden prompts with this machine's runtime, in a process of its own.

    The process runs beside what the caller does in the block, and ends with the block.

    Args:
        runtime: this machine's (`own_runtime`).
        folder: a model folder.
        context: of the bundle, in tokens.
        report: called with progress.

    Yields:
        What waits for the prompts and returns them; it raises EdgekitError if this machine cannot
        run the model.
    """
    package = Path(edgekit.__file__).resolve().parents[1]
    command = [
        *(sys.executable, "-S", "-P", "-m", "edgekit.agent", "golden"),
        *("--model", str(folder.resolve()), "--context", str(context)),
    ]
    with tempfile.TemporaryDirectory(prefix="edgekit.golden.") as scratch:
        environment = layout.environment(Path(scratch), (runtime, package))
        del environment["PYTHONPYCACHEPREFIX"]  # compiled modules stay beside their sources
        said, errors = Path(scratch, "stdout"), Path(scratch, "stderr")
        with said.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )

        def prompts() -> list[GoldenPrompt]:
            report("recording golden prompts")
            try:
                code = process.wait(RECORD_SECONDS)
            except subprocess.TimeoutExpired:
                raise EdgekitError(
                    "the model's golden prompts were not recorded in time",
                    f"it was stopped after {RECORD_SECONDS} s",
                    _WITHOUT,
                ) from None
            return _read(code, said.read_bytes(), errors.read_text("utf-8", "replace"))

        try:
            yield prompts
        finally:
            process.kill()
            process.wait()


def _read(code: int, said: bytes, errors: str) -> list[GoldenPrompt]:
    lines = said.splitlines()[-1:]  # native libraries print to stdout, too
    try:
        if code == 0 and lines:
            return msgspec.json.decode(lines[0], type=list[GoldenPrompt])
        problem = msgspec.json.decode(lines[0] if lines else b"", type=dict[str, str])
        why = f"{problem['what']}: {problem['why']}" if problem["why"] else problem["what"]
    except (msgspec.MsgspecError, ValueError, KeyError):
        last = (errors.strip().splitlines() or ["no output"])[-1]
        why = f"it ended with {code}: {last}"
    raise EdgekitError("the model cannot be run on this machine", why, _WITHOUT)
