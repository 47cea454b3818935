"""Compares a built folder with its source: what can be compared whole is compared whole.

    python compare_source.py --model FOLDER --source FOLDER [--trust]

The result event has `differences` (see `lint/difference.py`; at most 20 of each kind), `compared`
(counts), `left_out` (what has no counterpart: a name, or an area and the reason) and `seconds`. The
verdict is `builder/lint/source.py`'s. A source that cannot be read is left out; a built folder that
cannot is a difference.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx
from common.reporting import Reporter, run
from lint.attention import RotaryTables, attention, norms
from lint.checkpoint import CheckpointTensors
from lint.graph import ResolvedGraph
from lint.original import Original
from lint.pictures import pictures
from lint.stored import Store
from lint.texts import configuration, load_tokenizer, tokens
from lint.values import matrices, missing, vectors
from lint.wiring import wiring
from vision.families import GraphFamily, family_of

LISTED = 20


class Comparison:
    """Collects the differences of all areas; an area that fails does not end the others."""

    def __init__(self) -> None:
        self.differences: list[dict[str, str]] = []
        self.compared: dict[str, int] = {}
        self.left_out: list[str] = []
        self._seen: Counter[str] = Counter()

    def take(self, area: str, compare: Callable[[], Iterable[dict[str, str]] | None]) -> None:
        """Run a comparison and keep its differences."""
        try:
            found = list(compare() or ())
        except Exception as error:  # transformers and remote code raise many kinds
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self.left_out.append(f"{area}: {reason[0][:200]}")
            return
        for one in found:
            self._seen[one["kind"]] += 1
            if self._seen[one["kind"]] <= LISTED:
                self.differences.append(one)

    def count(self, counts: dict[str, Any]) -> None:
        """Keep the counts of a comparison, and the names that it left out."""
        left = counts.pop("left_out", [])
        self.compared |= counts
        self.left_out += left[:LISTED]


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Compare all areas; return the result event."""
    started = time.monotonic()
    reporter.progress("comparing with the source")
    seen = Comparison()
    made: dict[str, Any] = {}

    def load() -> None:
        made["original"] = Original(args.source, args.trust)

    def load_words() -> None:
        made["tokenizer"] = load_tokenizer(args.source, args.trust)

    seen.take("the source's model", load)
    seen.take("the source's tokenizer", load_words)
    original, tokenizer = made.get("original"), made.get("tokenizer")
    if tokenizer is not None:
        seen.take("tokenizer", lambda: tokens(args.model, tokenizer))
    if original is not None:
        seen.take(
            "configuration", lambda: configuration(args.model, args.source, original, tokenizer)
        )
    graph = ResolvedGraph(onnx.load(args.model / args.graph, load_external_data=False))
    store = Store(args.model, graph)
    if (family := family_of(args.source)) is not None:
        seen.take("the part that sees", lambda: _pictures(seen, args, family))
    seen.take("wiring", lambda: wiring(graph))
    if original is not None:
        seen.take("attention", lambda: attention(graph, original))
        seen.take("norms", lambda: norms(graph, original))
        tables = RotaryTables(store, original)
        seen.take("rotary tables", tables.differences)
        seen.compared["rotary_rows"] = tables.rows
        _weights(seen, store, args.source, original, reporter)
    return {
        "differences": seen.differences,
        "counts": dict(seen._seen),
        "compared": seen.compared,
        "left_out": seen.left_out,
        "seconds": round(time.monotonic() - started, 1),
    }


def _pictures(
    seen: Comparison, args: argparse.Namespace, family: GraphFamily
) -> list[dict[str, str]]:
    found, counts = pictures(args.model, args.source, family)
    seen.count(counts)
    return found


def _weights(
    seen: Comparison, store: Store, source: Path, original: Original, reporter: Reporter
) -> None:
    made: list[CheckpointTensors] = []
    seen.take("the source's weights", lambda: made.append(CheckpointTensors(source)))
    if not made:
        return
    checkpoint = made[0]

    def tell(share: float) -> None:
        reporter.progress("comparing with the source", share)

    def all_matrices() -> list[dict[str, str]]:
        tied = original.tied and not checkpoint.stores_head()
        found, counts = matrices(store, checkpoint, original.config, tied, tell)
        seen.count(counts)
        return found

    def all_vectors() -> list[dict[str, str]]:
        found, counts = vectors(store, checkpoint, original.config)
        seen.count(counts)
        return found

    seen.take("matrices", all_matrices)

    def all_missing() -> list[dict[str, str]]:
        found, counts = missing(store, checkpoint, original.parameters)
        seen.count(counts)
        return found

    seen.take("norms and biases", all_vectors)
    seen.take("the source's tensors", all_missing)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--graph", default="model.onnx")
    parser.add_argument("--trust", action="store_true", help="the model's own code may run")
    run(parser, work)
