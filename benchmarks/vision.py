"""The vision part of Phi-3.5-vision in its real size: CPU seconds and memory of a view.

    python -m benchmarks.vision [--size real|tiny] [--views N] [--threads N] [--json]

The weights are random: neither time nor memory depends on them, and how far INT8 is from FP32 only
roughly says what it would be with real ones. A view is the global one or a crop; a picture of N
crops has N + 1. They are computed one by one, as a device does. The writer's own memory is measured
too. `real` takes 2 GB of disk in TMPDIR and some minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from edgekit.builder.make.pictures import write_graphs
from edgekit.builder.spec import VisionPrecision
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.job import Job, Toolchain
from edgekit.builder.tools.process import ProcessResult
from edgekit.builder.tools.progress import Progress, ProgressCallback

MAKE = Path(__file__).parents[1] / "tests" / "models" / "make_phi3v.py"
PRECISIONS: tuple[VisionPrecision, ...] = ("fp32", "int8")
SIDE = 336
SEED = 5


class Measured(msgspec.Struct, frozen=True):
    """One precision of the vision part.

    Attributes:
        file_bytes: of `vision.onnx.data`.
        writer_peak_rss_bytes, writer_cpu_seconds: of the process that wrote both graphs.
        view_cpu_seconds: mean over the views, all threads together.
        peak_rss_bytes: of the process that loaded the graph and computed the views.
        cosine, relative_error: of the features, against FP32.
    """

    precision: str
    file_bytes: int
    writer_peak_rss_bytes: int
    writer_cpu_seconds: float
    view_cpu_seconds: float
    peak_rss_bytes: int
    cosine: float = 1.0
    relative_error: float = 0.0


class _Watched:
    """A toolchain that remembers what its last job took."""

    def __init__(self, inner: Toolchain) -> None:
        self._inner = inner
        self.last: ProcessResult | None = None

    def run(self, job: Job, report: ProgressCallback) -> ProcessResult:
        self.last = self._inner.run(job, report)
        return self.last


def _silent(_: Progress) -> None:
    """Nobody watches."""


def measure(size: str, views: int, threads: int) -> list[Measured]:
    """Every precision, FP32 first."""
    runner = HostToolchain().ready(_silent)
    toolchain = _Watched(runner)
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="vision-") as folder:
        work = Path(folder)
        more = ["--real-vision"] if size == "real" else []
        subprocess.run(
            [runner.python, "-E", "-s", MAKE, work / "source", *more],
            check=True, capture_output=True,
        )  # fmt: skip
        exact = np.zeros(0, np.float32)
        for precision in PRECISIONS:
            place = work / precision
            place.mkdir()
            graphs = write_graphs(toolchain, work / "source", precision, place, _silent)
            assert toolchain.last is not None
            said, features = _in_a_process(graphs / "vision.onnx", views, threads)
            exact = features if precision == "fp32" else exact
            found.append(
                Measured(
                    precision=precision,
                    file_bytes=(graphs / "vision.onnx.data").stat().st_size,
                    writer_peak_rss_bytes=toolchain.last.peak_rss_bytes,
                    writer_cpu_seconds=round(toolchain.last.cpu_seconds, 1),
                    view_cpu_seconds=round(said["cpu_seconds"] / views, 2),
                    peak_rss_bytes=int(said["peak_rss_bytes"]),
                    cosine=float((features * exact).sum() / _norm(features) / _norm(exact)),
                    relative_error=_norm(features - exact) / _norm(exact),
                )
            )
    return found


def _norm(values: np.ndarray) -> float:
    return float(np.linalg.norm(values))


def _in_a_process(graph: Path, views: int, threads: int) -> tuple[dict[str, float], np.ndarray]:
    """What a process of its own says of the graph, and the features that it computed."""
    out = graph.with_name("features.npy")
    given = {"--graph": graph, "--out": out, "--views": views, "--threads": threads}
    words = [str(word) for pair in given.items() for word in pair]
    argv = [sys.executable, "-m", "benchmarks.vision", *words]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    said: dict[str, float] = json.loads(done.stdout)
    return said, np.load(out)


def child(graph: Path, out: Path, views: int, threads: int) -> None:
    """Load the graph, compute the views one by one, and print what it took."""
    import onnxruntime  # noqa: PLC0415  only the child has it in memory

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(graph), options)
    random = np.random.default_rng(SEED)
    none = np.zeros((1, 2), np.int64)
    before, made = _cpu_seconds(), []
    for _ in range(views):
        pixels = random.standard_normal((1, 1, 3, SIDE, SIDE), np.float32)
        made.append(session.run(None, {"pixel_values": pixels, "image_sizes": none})[0])
    usage = {"cpu_seconds": _cpu_seconds() - before, "peak_rss_bytes": _peak()}
    np.save(out, np.concatenate(made))
    print(json.dumps(usage))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(found: list[Measured]) -> str:
    """The figures, one precision a line."""
    lines = [
        "| vision part | file | writer's peak | CPU s per view | peak RSS | cosine | rel. error |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {each.precision} | {each.file_bytes / 1e6:.0f} MB "
        f"| {each.writer_peak_rss_bytes / 1e6:.0f} MB | {each.view_cpu_seconds:.2f} "
        f"| {each.peak_rss_bytes / 1e6:.0f} MB | {each.cosine:.5f} | {each.relative_error:.4f} |"
        for each in found
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.vision", description=__doc__)
    parser.add_argument("--size", choices=("real", "tiny"), default="real")
    parser.add_argument("--views", type=int, default=2, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.graph:
        child(asked.graph, asked.out, asked.views, asked.threads)
        return 0
    found = measure(asked.size, asked.views, asked.threads)
    print(msgspec.json.encode(found).decode() if asked.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
