"""Measures the runtime's settings on this device, and keeps the result below the device's ROOT.

Each setting is measured in its own process, which is killed when the time is over.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import msgspec

from edgekit.agent.serve.pipe import SLICE_TOKENS
from edgekit.agent.serve.worker.cgroup import control_groups
from edgekit.agent.serve.worker.decoder import RuntimeOptions, open_model
from edgekit.agent.serve.worker.tuning import (
    SettingSpeed,
    Tuning,
    cpu_limit,
    cpu_name,
    keep,
    next_setting,
)
from edgekit.store import publish

log = logging.getLogger(__name__)

TUNE_SECONDS = 30.0  # for the whole sweep, model loads included
MEASURE_SECONDS = 0.5  # each for prefill and for decode, once the model is loaded
MAX_LENGTH = 512  # tokens of KV memory while measuring
MIN_STEPS = 4
PR_SET_PDEATHSIG = 1  # prctl(2)


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    count = len(os.sched_getaffinity(0))
    for group in control_groups():
        with suppress(OSError):  # the root group has no such file, nor has version 1
            count = cpu_limit(count, (group / "cpu.max").read_text("ascii"))
    return count


def tuned(model_dir: Path, release: str, file: Path, seconds: float) -> tuple[RuntimeOptions, bool]:
    """Return the best setting for this release and device; measure it if the file has none.

    Args:
        model_dir: the model's folder.
        release: the digest of the model's release.
        file: the file that keeps the results.
        seconds: time for the sweep; settings that are not measured by then are left out.

    Returns:
        The setting, and whether it was measured. All CPUs without spinning if none was measured.
    """
    count = cpus()
    name = cpu_name(Path("/proc/cpuinfo").read_text("utf-8", "replace"), platform.machine())
    key = f"{release} {name} x{count}"
    kept = _read(file)
    known = next((tuning for tuning in kept if tuning.key == key), None)
    if known is None:
        tried = _sweep(model_dir, count, time.monotonic() + seconds)
        if not tried:
            log.warning("no setting could be measured within %.0f s", seconds)
            return RuntimeOptions(count, False), False
        known = Tuning(key, count, tried)
        try:
            publish(file, msgspec.json.encode(keep(kept, known)))
        except OSError as error:  # a full disk costs the next start a measurement, not this one
            log.warning("%s cannot be written: %s", file, error)
    return known.best.options, True


def _read(file: Path) -> list[Tuning]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Tuning])
    except (
        OSError,
        msgspec.MsgspecError,
        UnicodeDecodeError,
    ):  # missing or damaged: measure again
        return []


def _sweep(model_dir: Path, count: int, deadline: float) -> list[SettingSpeed]:
    tried: list[SettingSpeed] = []
    while (setting := next_setting(tried, count)) is not None:
        measured = _measure_apart(model_dir, setting, deadline - time.monotonic())
        if measured is None:
            break
        tried.append(measured)
        log.info(
            "%d threads%s: %.0f tokens/s prefill, %.1f tokens/s decode",
            *(measured.threads, ", spinning" if measured.spinning else ""),
            *(measured.prefill_per_s, measured.decode_per_s),
        )
    return tried


def _measure_apart(model_dir: Path, options: RuntimeOptions, seconds: float) -> SettingSpeed | None:
    if seconds <= 0:
        return None
    command = [
        *(sys.executable, "-S", "-P", "-m", "edgekit.agent", "measure", "--model", str(model_dir)),
        *("--threads", str(options.threads), "--spinning", str(int(bool(options.spinning)))),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=seconds,
            check=False,
        )
        line = done.stdout.splitlines()[-1:]  # native libraries print to stdout too
        return msgspec.json.decode(line[0], type=SettingSpeed) if line else None
    except (subprocess.TimeoutExpired, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def time_setting(model_dir: Path, threads: int, spinning: bool) -> SettingSpeed:
    """Load the model with one setting and measure it; runs in the child process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the child ends with its parent
    decoder, *_ = open_model(model_dir, MAX_LENGTH, RuntimeOptions(threads, spinning), slots=1)
    tokens = [n % decoder.limits.vocabulary for n in range(1, SLICE_TOKENS + 1)]
    decoder.extend(0, tokens)
    slices: list[float] = []
    steps: list[float] = []
    until = time.monotonic() + MEASURE_SECONDS
    while not slices or time.monotonic() < until:
        decoder.truncate(0, 0)
        began = time.perf_counter()
        decoder.extend(0, tokens)
        slices.append(time.perf_counter() - began)
    decoder.step({0: tokens[0]})
    until = time.monotonic() + MEASURE_SECONDS
    while len(steps) < MIN_STEPS or time.monotonic() < until:
        if decoder.length(0) == MAX_LENGTH:
            decoder.truncate(0, 0)  # some models truncate to no other length
            decoder.extend(0, tokens)
        began = time.perf_counter()
        decoder.step({0: tokens[0]})
        steps.append(time.perf_counter() - began)
    return SettingSpeed(threads, spinning, SLICE_TOKENS / median(slices), 1 / median(steps))
