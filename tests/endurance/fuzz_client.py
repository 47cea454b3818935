"""The child of `tests.endurance.fuzz` that feeds the MQTT client: `atheris` guides it by coverage.

    python -m tests.endurance.fuzz_client RUNS SEED REPORT FOLDER

libFuzzer ends the process itself, so REPORT, a JSON file, is written again and again. FOLDER takes
its corpus, and the input that broke something. Where there is no wheel of atheris, the same inputs
are mutated at random.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:  # wheels for x86-64 only
    atheris = None

MAX_BYTES = 4096  # of one input
TIMEOUT_SECONDS = 10
RSS_MIB = 1024
REPORT_EVERY = 500


def main() -> None:
    """Run; exit code 0, or whatever the fuzzer says of what it found."""
    runs, seed = map(int, sys.argv[1:3])
    report, folder = map(Path, sys.argv[3:5])
    module: Any
    if atheris is None:
        module = importlib.import_module("tests.endurance.fuzz_target")
    else:
        with atheris.instrument_imports(include=["paho.mqtt", "edgekit"]):
            module = importlib.import_module("tests.endurance.fuzz_target")
    logging.disable(logging.CRITICAL)  # each lost connection is a warning
    target = module.Target()
    began = time.monotonic()
    rss_kib: list[int] = []

    def one(data: bytes) -> None:
        target.feed(module.framed(data))
        done = target.seen["packets"]
        if done % REPORT_EVERY == 0 or done == runs:
            rss_kib.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            text = {
                "guided": atheris is not None,
                "seconds": round(time.monotonic() - began, 1),
                "rss_kib": (rss_kib[min(1, len(rss_kib) - 1)], rss_kib[-1]),
            }
            report.write_text(json.dumps(text | {"seen": target.seen}))

    if atheris is None:
        choose = random.Random(seed)
        for _ in range(runs):
            one(module.mutated(choose))
        return
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, whole in enumerate(module.SEEDS):
        (corpus / str(number)).write_bytes(module.unframed(whole))
    options = {"runs": runs, "seed": seed, "max_len": MAX_BYTES, "timeout": TIMEOUT_SECONDS}
    options |= {"rss_limit_mb": RSS_MIB, "verbosity": 0, "detect_leaks": 0}
    arguments = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, f"-artifact_prefix={folder}/", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
