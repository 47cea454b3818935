"""`build.*`: the low-memory path of a build against the stock one, in turns, on the same weights.

    python -m benchmarks.build [--model smollm2|phi35|DIR] [--layers N] [--precision int4]
        [-x KEY=VALUE …] [--rounds N] [--only low-memory|stock] [--limit-gib N]

Only the model builder's own process is measured: the most memory it held and its CPU time; wall
time depends on who else works. `phi35` is random weights in Phi-3.5-mini's exact shape, made once
and kept in edgekit's cache (7.6 GB for all 32 layers); the stock path takes 5.4 GiB of memory for
four of its layers and 20.6 GiB for all, so `--only low-memory` is for machines with less.
`--limit-gib` builds in a container that may not hold more, mapped pages included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.figure import figure
from benchmarks.models import PHI35, SMOLLM2, phi35_source
from benchmarks.rig import Rig
from edgekit.builder.files import hash_file
from edgekit.builder.make.convert import convert
from edgekit.builder.request.options import parse_options
from edgekit.builder.source.find import find
from edgekit.builder.source.gguf import dequantised
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.builder.spec import BuildSpec, Precision, Source
from edgekit.builder.tools.container import ContainerToolchain
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.job import Job, Toolchain
from edgekit.builder.tools.process import ProcessResult
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.data import cache_root
from edgekit.errors import EdgekitError

LOW_MEMORY, STOCK = "low-memory", "stock"
PATHS = (LOW_MEMORY, STOCK)
LAYERS = 4
ROUNDS = 3
AGAINST = "the stock path, in turns; equal bytes are checked"


class Build(msgspec.Struct, frozen=True):
    """One run of the model builder: bytes of memory, CPU and wall seconds, file -> sha256."""

    peak_rss_bytes: int
    cpu_seconds: float
    seconds: float
    files: dict[str, str]


class Workload(msgspec.Struct, frozen=True):
    """What is built.

    Attributes:
        source: a Hugging Face folder.
        precision: the builder's `-p`.
        options: its `--extra_options`.
        limit_bytes: of the container that it runs in; None builds on the host.
    """

    source: Path
    precision: Precision
    options: dict[str, str]
    limit_bytes: int | None = None


class Limited(msgspec.Struct, frozen=True):
    """A toolchain whose jobs may hold so many bytes."""

    inner: Toolchain
    limit_bytes: int

    def run(self, job: Job, report: ProgressCallback) -> ProcessResult:
        """Run a job, which is ended when it wants more."""
        limited = msgspec.structs.replace(job, memory_limit_bytes=self.limit_bytes)
        return self.inner.run(limited, report)


def _silent(_: Progress) -> None:
    """Nobody watches."""


def find_source(model: str, layers: int) -> Path:
    """The Hugging Face folder of `smollm2`, of `phi35` with so many layers, or a folder itself."""
    if model == SMOLLM2:
        found = find(str(smollm2_gguf()), None, None, _silent)
        return dequantised(found, HostToolchain(), _silent)
    if model != PHI35:
        return Path(model)
    return phi35_source(layers)


def build(workload: Workload, path: str) -> Build:
    """Run the model builder one way; what it made is hashed and removed.

    Raises:
        EdgekitError: it failed, or went the other way.
    """
    toolchain = ContainerToolchain() if workload.limit_bytes else HostToolchain()
    ready: Toolchain = toolchain.ready(_silent)
    if workload.limit_bytes:
        ready = Limited(ready, workload.limit_bytes)
    name = workload.source.name
    spec = BuildSpec(
        Source("folder", name, "", {}),
        workload.precision,
        "cpu",
        workload.options,
        {},
        toolchain.digest,
    )
    # in the cache and not below /tmp, which may be memory
    scratch = cache_root() / "benchmarks"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=scratch) as folder:
        made = convert(
            ready, workload.source, spec, workload.options, Path(folder), _silent, route=path,
        )  # fmt: skip
        if made.route != path:
            raise EdgekitError(f"{name} was not built the {path} way", made.note)
        # what follows from the weights; the tokenizer's files are copies
        names = ("model.onnx", "model.onnx.data", "genai_config.json")
        files = {name: hash_file(made.folder / name) for name in names}
    done = made.finished
    return Build(done.peak_rss_bytes, done.cpu_seconds, done.seconds, files)


def compare(
    workload: Workload, rounds: int, paths: Sequence[str] = PATHS
) -> dict[str, list[Build]]:
    """Builds in turns, `rounds` of each path.

    Raises:
        EdgekitError: a build failed, or two differ in a byte.
    """
    builds: dict[str, list[Build]] = {path: [] for path in paths}
    for number in range(rounds):
        for path in paths if number % 2 == 0 else reversed(paths):
            builds[path].append(build(workload, path))
    if len({tuple(one.files.items()) for path in paths for one in builds[path]}) > 1:
        raise EdgekitError(
            "the builds differ",
            "; ".join(f"{path}: {one.files}" for path in paths for one in builds[path]),
        )
    return builds


@cache  # two figures look at the same builds
def _smollm2(rounds: int) -> dict[str, list[Build]]:
    return compare(Workload(find_source(SMOLLM2, 0), "int4", {}), rounds)


@figure(
    "build.peak_rss_gib",
    what="Peak memory of the int4 build of SmolLM2-135M, low-memory path",
    unit="GiB",
    against=AGAINST,
)
def peak_rss_gib(rig: Rig) -> list[float]:
    """GiB of the builder's process, as the kernel counts its high-water mark."""
    return [build.peak_rss_bytes / 2**30 for build in _smollm2(rig.rounds)[LOW_MEMORY]]


@figure(
    "build.cpu_ratio",
    what="CPU time of the same build, the low-memory path over the stock one",
    unit="ratio",
    against=AGAINST,
)
def cpu_ratio(rig: Rig) -> list[float]:
    """Seconds over seconds, round by round."""
    builds = _smollm2(rig.rounds)
    pairs = zip(builds[LOW_MEMORY], builds[STOCK], strict=True)
    return [low.cpu_seconds / stock.cpu_seconds for low, stock in pairs]


def table(builds: dict[str, list[Build]]) -> str:
    """Medians in Markdown, a line for each path."""
    lines = ["| path | peak GiB | CPU s | wall s | runs |", "|---|---|---|---|---|"]
    for path, ones in builds.items():
        peak = median(one.peak_rss_bytes for one in ones) / 2**30
        cpu, wall = median(one.cpu_seconds for one in ones), median(one.seconds for one in ones)
        lines.append(f"| {path} | {peak:.2f} | {cpu:.1f} | {wall:.1f} | {len(ones)} |")
    digests = next(iter(builds.values()))[0].files
    lines += ["", *(f"{name} {digest}" for name, digest in digests.items())]
    return "\n".join(lines)


def main() -> None:
    """Entry point: an error is an exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.build", description=__doc__)
    parser.add_argument("--model", default=SMOLLM2, metavar=f"{SMOLLM2}|{PHI35}|DIR")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of {PHI35}")
    parser.add_argument("--precision", default="int4", choices=("int4", "int8", "fp16", "fp32"))
    parser.add_argument("-x", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", choices=PATHS, help="measure one path")
    parser.add_argument("--limit-gib", type=float, help="of a container to build in")
    args = parser.parse_args()
    paths = (args.only,) if args.only else PATHS
    try:
        source = find_source(args.model, args.layers)
        limit = round(args.limit_gib * 2**30) if args.limit_gib else None
        workload = Workload(source, args.precision, parse_options(args.x), limit)
        builds = compare(workload, args.rounds, paths)
    except EdgekitError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"{source.name} {args.precision}, load average {os.getloadavg()[0]:.1f}")
    print(table(builds))


if __name__ == "__main__":
    main()
