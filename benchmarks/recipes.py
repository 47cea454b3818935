"""`python -m benchmarks.recipes`: every stock recipe on SmolLM2; the table of docs/recipes.md.

Each recipe is built and compared with full precision on more text than a build takes. Decoding
speed is measured apart, all models loaded, in turns. Then `--recipe auto` is run for real and has
to keep what the table says.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.bare import Bare
from benchmarks.render import rewrite
from edgekit.builder.gate.effort import Effort
from edgekit.builder.gate.ladder import RecipeResult, kept
from edgekit.builder.gate.measure import Subject, assess
from edgekit.builder.gate.verdict import PROFILES, GateReport, judge
from edgekit.builder.output.publish import read_record
from edgekit.builder.request.recipe import AUTO, LADDER, RECIPES, Recipe
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.source.find import find
from edgekit.builder.source.gguf import dequantised
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.progress import Progress
from edgekit.data import cache_root
from edgekit.errors import EdgekitError

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
EFFORT = Effort(prompts=32, tokens=128, greedy=24, greedy_tokens=200)
PROFILE = "small"
ROUNDS, TOKENS, CONTEXT_TOKENS = 7, 64, 1024
PROMPT = [{"role": "user", "content": "Tell me about the history of Rome."}]

# Mean KL of an earlier experiment on the same weights: other prompts (24, 2,908 positions), other
# scripts, the same runtime.
EARLIER = {"plain": 0.4345, "k-quant": 0.4154, "k-quant-mixed": 0.2080}


class Row(msgspec.Struct, frozen=True):
    """A recipe's measurements; speeds in tokens/s, one a round."""

    recipe: Recipe
    folder: Path
    gate: GateReport
    speeds: tuple[float, ...]

    @property
    def data_bytes(self) -> int:
        """Of the weights' file."""
        return (self.folder / "model.onnx.data").stat().st_size

    @property
    def result(self) -> RecipeResult:
        """What the ladder would decide on."""
        record = read_record(self.folder)
        assert record is not None, "it was built a moment ago"
        metrics = self.gate.metrics
        return RecipeResult(
            self.recipe.name,
            sum(file.size for file in record.files.values()),
            judge(metrics, PROFILES[PROFILE]).passed,
            metrics.kl_mean,
            metrics.top1,
            median(self.speeds),
        )


def _say(progress: Progress) -> None:
    share = "" if progress.fraction is None else f" {progress.fraction:.0%}"
    print(f"\r{progress.step}: {progress.detail}{share}"[:99].ljust(100), end="", file=sys.stderr)


def build_recipe(recipe: str, gguf: Path, gate: str | None) -> Path:
    """The model folder of a recipe, built once and kept in the cache."""
    out = cache_root() / "benchmarks" / "recipes" / recipe
    return build(BuildRequest(str(gguf), out, recipe=recipe, gate=gate), _say).out


def compare(folder: Path, source: Path) -> GateReport:
    """What the gate measures, on `EFFORT`."""
    record = read_record(folder)
    assert record is not None, "it was built a moment ago"
    return assess(
        Subject(folder, source, record.spec), PROFILES[PROFILE], HostToolchain().ready(_say), _say,
        effort=EFFORT, sensitivity=False,
    )  # fmt: skip


def decode_speeds(folders: Sequence[Path]) -> list[tuple[float, ...]]:
    """Tokens/s of greedy decoding: for each folder one number a round, the folders in turns."""
    options = {"intra_op_num_threads": len(os.sched_getaffinity(0))}
    bares = [Bare(folder, CONTEXT_TOKENS, options) for folder in folders]
    try:
        taken: list[list[float]] = [[] for _ in bares]
        for number in range(ROUNDS):
            order = list(enumerate(bares))
            for index, bare in order if number % 2 else reversed(order):
                answer = bare.answer(PROMPT, TOKENS)
                taken[index].append((answer.tokens - 1) / answer.rest_seconds)
        return [tuple(speeds) for speeds in taken]
    finally:
        for bare in bares:
            bare.close()


def table(rows: Sequence[Row], kept_by_auto: str) -> str:
    """The table in Markdown."""
    head = (
        "| recipe | what | data MB | KL | 99 % | top-1 | ppl ratio | loops | ÷ plain's speed "
        "| earlier KL |\n|---|---|---|---|---|---|---|---|---|---|\n"
    )
    plain = rows[0].speeds
    lines = []
    for row in rows:
        m, earlier = row.gate.metrics, EARLIER.get(row.recipe.name)
        speed = median(own / base for own, base in zip(row.speeds, plain, strict=True))
        lines.append(
            f"| `{row.recipe.name}` | {row.recipe.what} | {row.data_bytes / 1e6:.2f} "
            f"| {m.kl_mean:.3f} ± {m.kl_error:.3f} | {m.kl_p99:.2f} | {m.top1:.3f} "
            f"| {m.perplexity_ratio:.2f} | {m.loops}/{m.greedy_texts} | {speed:.2f} "
            f"| {f'{earlier:.3f}' if earlier else '-'} |"
        )
    m = rows[0].gate.metrics
    lines += [
        "",
        (
            f"{m.positions} positions of {m.texts} texts; full precision loops in "
            f"{m.reference_loops}/{m.greedy_texts}. `--recipe auto --gate {PROFILE}` keeps "
            f"`{kept_by_auto}`."
        ),
    ]
    return head + "\n".join(lines)


def run(write: bool) -> None:
    """Measure, print, and write the page when asked.

    Raises:
        EdgekitError: something could not be measured, or auto keeps another than the table says.
    """
    gguf = smollm2_gguf()
    source = dequantised(find(str(gguf), None, None, _say), HostToolchain(), _say)
    recipes = [recipe for recipe in RECIPES if not recipe.needs_untied]  # SmolLM2 is tied
    folders = [build_recipe(recipe.name, gguf, None) for recipe in recipes]
    gates = [compare(folder, source) for folder in folders]
    speeds = decode_speeds(folders)
    rows = [Row(*values) for values in zip(recipes, folders, gates, speeds, strict=True)]
    expected = kept([row.result for row in rows if row.recipe.name in LADDER], None)
    record = read_record(build_recipe(AUTO, gguf, PROFILE))
    if record is None or expected is None or record.recipe != expected.recipe:
        raise EdgekitError(
            "auto does not keep what the table says",
            f"it kept {record and record.recipe}, the table says {expected and expected.recipe}",
        )
    text = table(rows, record.recipe)
    print(f"\n{text}")
    if write:
        rewrite([PAGE], text)


def main() -> None:
    """Entry point: an error is an exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite the table of docs/recipes.md")
    try:
        run(parser.parse_args().write)
    except EdgekitError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
