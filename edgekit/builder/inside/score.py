"""Measures the difference of a built model from its reference, through onnxruntime-genai.

    python score.py --model FOLDER --source FOLDER --reference FOLDER --tokens FOLDER
        --amounts JSON --budget SECONDS [--announce]

The result event has the metrics of `builder/gate/verdict.py`, the KL divergence by token, and the
errors of the matrices. A model that does not load is a result, not an error.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from common.reporting import Reporter, run
from gate.chat import NAME as CHAT
from gate.chat import agreement, device_tokenizer
from gate.clock import SUMMARY, Announcement, speeds_of
from gate.duration import Amounts
from gate.logits import NAME, Divergence, Texts, compare, load_logits
from gate.longtext import pieces
from gate.rotary import rotary_error
from gate.runtime import BuiltModel, open_model, refusal
from gate.text import cut, loops
from gate.weights import MappedGraph, errors

LEAST_SINGLES = 16
"""The fewest single tokens that the long text ends with, also beyond the budget."""


def forced(
    model: BuiltModel, texts: Texts, folder: Path, reporter: Reporter, tell: Announcement | None
) -> list[Divergence]:
    """Teacher-forced: the divergence at every scored position of every text."""
    found = []
    for number, sequence in enumerate(texts.sequences):
        if tell:
            tell.read(number, sequence)
        said = tell.said if tell else ""
        reporter.progress(f"the model reads the text{said}", number / len(texts.sequences))
        logits = model.logits(sequence.tokens[:-1])[sequence.first :]
        found.append(compare(load_logits(folder, number), logits, sequence.targets))
    return found


def through_cache(
    model: BuiltModel, texts: Texts, folder: Path, budget: float, reporter: Reporter
) -> dict[str, Any]:
    """The long text, read at once and in pieces: its divergence from the reference and from itself.

    Logits that depend on the way in which a text is read come from a defect of the cache. The
    single tokens at the end become fewer where `budget` (in seconds) is spent.
    """
    long = texts.long
    if long is None:
        return {}
    started = time.perf_counter()
    reporter.progress("the model reads a long text")
    body = long.tokens[:-1]
    whole = model.logits(body)
    scored = compare(load_logits(folder, len(texts.sequences)), whole[long.first :], long.targets)
    reporter.progress("the model reads it through its cache")
    found = {"long_positions": len(long.targets), "long_kl": float(scored.kl.mean())}
    lengths = pieces(len(body))
    off, singles = [], 0
    try:
        for at, rows in model.in_pieces(body, lengths):
            end = at + len(rows)
            if end > lengths[0]:  # nothing is in the cache before
                off.append(compare(whole[at:end], rows, long.tokens[at + 1 : end + 1]).kl)
            singles += end > len(body) - lengths.count(1)
            if singles >= LEAST_SINGLES and time.perf_counter() - started > budget:
                break
    except Exception as error:  # whatever the runtime raises: a device reads in pieces, too
        return found | {"cache_kl": math.nan, "cache_error": refusal(error)["load_error"]}
    kl = np.concatenate(off)
    return found | {"cache_positions": len(kl), "cache_kl": float(kl.mean())}


def divergence(parts: list[Divergence]) -> dict[str, float]:
    """The metrics over all positions."""
    kl = np.concatenate([p.kl for p in parts])
    model = np.concatenate([p.model_log for p in parts])
    reference = np.concatenate([p.reference_log for p in parts])
    # the standard error is over texts, which are independent; the tokens of a text are not
    means = np.array([p.kl.mean() for p in parts if len(p.kl)])
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else 0.0
    return {
        "positions": len(kl),
        "texts": len(parts),
        "kl_mean": float(kl.mean()),
        "kl_error": float(error),
        "kl_median": float(np.median(kl)),
        "kl_p99": float(np.quantile(kl, 0.99)),
        "top1": float(np.concatenate([p.same for p in parts]).mean()),
        "perplexity_ratio": float(np.exp(min(50.0, reference.mean() - model.mean()))),
    }


def continued(model: BuiltModel, texts: Texts, reporter: Reporter) -> dict[str, Any]:
    """Greedy continuations: the number that loop and that end, and the speed."""
    looping = ended = made = 0
    seconds = 0.0
    for number, prompt in enumerate(texts.greedy_prompts):
        reporter.progress("the model continues prompts", number / len(texts.greedy_prompts))
        tokens, started = [], 0.0
        for token in model.continued(prompt, texts.greedy_tokens):
            started = started or time.perf_counter()  # the first token includes the prompt
            tokens.append(token)
        made += max(0, len(tokens) - 1)
        seconds += time.perf_counter() - started
        # a stop token before the last place does not count: the model continued after it
        ended += bool(tokens) and (len(tokens) < texts.greedy_tokens or tokens[-1] in texts.stops)
        looping += loops(tokens)
    own = texts.reference_greedy
    return {
        "greedy_texts": len(texts.greedy_prompts),
        "loops": looping,
        "ended": ended,
        "reference_loops": None if own is None else sum(map(loops, own)),
        "reference_ended": None if own is None else sum(cut(t, texts.stops)[1] for t in own),
        "tokens_per_second": round(made / seconds, 1) if seconds else 0.0,
    }


def chat(model: Path, package: Path, folder: Path) -> dict[str, Any]:
    """The chats and the tokens, compared with Hugging Face's."""
    wanted = json.loads((folder / CHAT).read_text(encoding="utf-8"))
    return agreement(device_tokenizer(package, model), wanted)


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure the model; return the result event."""
    started = time.monotonic()
    texts = Texts.load(args.reference / NAME)
    tell = None
    if args.announce:
        made = json.loads((args.reference / SUMMARY).read_text(encoding="utf-8"))
        tell = Announcement(Amounts(**json.loads(args.amounts)), speeds_of(made), reporter)
    reporter.progress("loading the model")
    try:
        model = open_model(args.model)
        model.logits(texts.sequences[0].tokens[:2])
    except Exception as error:  # whatever the runtime raises
        return refusal(error)
    divergences = forced(model, texts, args.reference, reporter, tell)
    found = {"loads": True, "load_error": ""} | divergence(divergences)
    extra = time.perf_counter()
    found |= through_cache(model, texts, args.reference, args.budget, reporter)
    extra = time.perf_counter() - extra
    found |= continued(model, texts, reporter)
    reporter.progress("comparing the chat template")
    found |= chat(args.model, args.tokens, args.reference)
    del model
    reporter.progress("comparing the weights")
    matrices = [] if args.no_weights else errors(args.model, args.source)
    found["rotary_error"] = rotary_error(MappedGraph(args.model).rotary(), args.reference)
    worst = max(matrices, key=lambda one: one["worst_row"], default=None)
    if worst:
        found |= {"weight_error": worst["worst_row"], "weight_example": worst["name"]}
    return {
        "metrics": found,
        "matrices": matrices,
        "tokens": [
            {"text": s.id, "kl": [round(float(v), 4) for v in p.kl]}
            for s, p in zip(texts.sequences, divergences, strict=True)
        ],
        "extra_seconds": round(extra, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True, help="the folder edgekit/tokens")
    parser.add_argument("--amounts", required=True, help="JSON of gate/duration.py's Amounts")
    parser.add_argument("--budget", type=float, required=True, help="seconds for the long text")
    parser.add_argument("--announce", action="store_true", help="no script before has done it")
    parser.add_argument(
        "--no-weights", action="store_true", help="the source is not what was built"
    )
    run(parser, work)
