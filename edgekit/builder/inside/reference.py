"""Computes the reference: the full-precision logits that the gate compares a built model with.

    python reference.py --source FOLDER --prompts FILE --out FOLDER [--text FILE | sizes]

Without `--text` the source model writes the text (sampled at temperature 0.8 with a fixed seed) and
continues prompts greedily; for that it is held in float32 as a whole. With `--text` (a file of
`write_text.py`) the model only reads: its weights stay mapped, and one matrix at a time is in
float32. `gate/logits.py` defines the format of the output. The result event has parameters,
positions, vocabulary and seconds.
"""

import argparse
import inspect
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from common.first_cosine import compute_first_cosine
from common.reporting import Reporter, ScriptError, run
from gate.chat import NAME as CHAT
from gate.chat import expected
from gate.logits import NAME, Sequence, Texts, save_logits
from gate.rotary import NAME as ROTARY
from gate.rotary import POSITIONS
from gate.text import load_prompts, prompt_tokens

TEMPERATURE = 0.8
OVERHEAD = 2.0  # factor for norms, attention and activations (measured)
STEP_SECONDS = 0.05  # Python's time per step of generation (measured)
LOGITS_BYTES = 768 * 2**20  # limit per pass; a large vocabulary takes more passes


def load(source: Path, adapter: Path | None, mapped: bool) -> Any:
    """The model in evaluation mode: float32, or mapped and computing in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    compute_first_cosine()
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto" if mapped else torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
        model = model if mapped else model.merge_and_unload()
    if mapped:
        from gate.mapped import compute_in_float32

        compute_in_float32(model)
    return model.eval()


def stops(model: Any) -> list[int]:
    """The model's stop tokens that it has a row for; the first one also pads."""
    found = model.generation_config.eos_token_id
    rows = model.get_input_embeddings().weight.shape[0]
    return [
        i for i in (found if isinstance(found, list) else [found]) if i is not None and i < rows
    ]


def write(
    model: Any, prompts: list[list[int]], tokens: int, sample: bool, seed: int
) -> list[list[int]]:
    """Continue all prompts in one batch, each up to and including its stop token."""
    import torch
    from transformers import GenerationConfig

    ends = stops(model)
    pad = ends[0] if ends else 0
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    torch.manual_seed(seed)
    how = {"do_sample": True, "temperature": TEMPERATURE} if sample else {"do_sample": False}
    config = GenerationConfig(
        **how, top_k=0, top_p=1.0, repetition_penalty=1.0, no_repeat_ngram_size=0,
        max_new_tokens=tokens, eos_token_id=ends or None, pad_token_id=pad,
    )  # fmt: skip
    with torch.inference_mode():
        made = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    rows = [row[width:].tolist() for row in made]
    # the stop token itself stays: the model's decision to end is scored, too
    return [row[: next((i + 1 for i, t in enumerate(row) if t in ends), len(row))] for row in rows]


def read(model: Any, texts: Texts, out: Path, tell: Callable[[float], None]) -> int:
    """Save the logits of all sequences; return the size of the vocabulary.

    Several sequences form one batch, padded on the right, which earlier positions do not attend
    to. Every weight is read once per pass, however many texts are in it.
    """
    import torch

    vocabulary = model.get_output_embeddings().weight.shape[0]
    pad = stops(model)[:1] or [0]
    passes = _passes(texts.sequences, vocabulary)
    done = 0
    for numbers in passes:
        tell(done / len(texts.sequences))
        chosen = [texts.sequences[n] for n in numbers]
        width = max(len(s.tokens) for s in chosen)
        ids = torch.tensor([s.tokens + pad * (width - len(s.tokens)) for s in chosen])
        mask = torch.tensor([[int(i < len(s.tokens)) for i in range(width)] for s in chosen])
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, n in enumerate(numbers):
            s = texts.sequences[n]
            save_logits(out, n, logits[row, s.first : len(s.tokens) - 1].numpy())
        del logits
        done += len(numbers)
    return vocabulary


def _passes(sequences: list[Sequence], vocabulary: int) -> list[list[int]]:
    """Batches of sequence numbers: similar lengths, and logits within LOGITS_BYTES."""
    rows = max(1, LOGITS_BYTES // (4 * vocabulary))
    passes: list[list[int]] = []
    for n in sorted(range(len(sequences)), key=lambda n: -len(sequences[n].tokens)):
        if passes and (len(passes[-1]) + 1) * len(sequences[passes[-1][0]].tokens) <= rows:
            passes[-1].append(n)
        else:
            passes.append([n])
    return passes


def rotary_tables(model: Any) -> np.ndarray:
    """Cosines at POSITIONS, shape (tables, positions, half of the rotary width).

    A model with several kinds of layers has several tables. A module whose call differs from
    transformers' common one is left out; there may be no table at all.
    """
    import torch

    config = model.config.get_text_config()
    kinds = sorted(set(getattr(config, "layer_types", None) or [])) or [None]
    tables = []
    for module in model.modules():
        if not type(module).__name__.endswith("RotaryEmbedding"):
            continue
        wants_kind = "layer_type" in inspect.signature(module.forward).parameters
        for kind in kinds if wants_kind else [None]:
            more = {"layer_type": kind} if wants_kind else {}
            # a module with another layout, e.g. three axes of positions, is left out
            with suppress(Exception):
                cosine, _ = module(torch.zeros(1, 1, 1), torch.tensor([POSITIONS]), **more)
                tables.append(cosine.float().numpy().reshape(len(POSITIONS), -1))
    widths = {table.shape[1] for table in tables}
    if len(widths) != 1:
        return np.zeros((0, len(POSITIONS), 1), np.float32)
    # both halves of the table are equal
    return np.stack(tables)[:, :, : max(1, widths.pop() // 2)]


def estimate(parameters: int, read_tokens: int, written_tokens: int, steps: int) -> float:
    """Estimated seconds of the whole script, from a timing of this machine's CPU and memory."""
    import torch

    rows, matrix = torch.rand(128, 2048), torch.rand(2048, 2048)
    per_operation = _timed(lambda: rows @ matrix) / (2 * 128 * 2048 * 2048)
    large = torch.rand(2**24)
    per_byte = _timed(large.sum) / (4 * 2**24)
    arithmetic = 2 * parameters * (read_tokens + written_tokens) * per_operation
    memory = 4 * parameters * steps * per_byte
    return OVERHEAD * (arithmetic + memory) + STEP_SECONDS * steps


def _timed(action: Callable[[], object]) -> float:
    action()
    started = time.perf_counter()
    for _ in range(5):
        action()
    return (time.perf_counter() - started) / 5


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Write the folder of the reference; return the result event."""
    started = time.monotonic()
    reporter.progress("loading the reference")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.source)
    model = load(args.source, args.adapter, mapped=args.text is not None)
    parameters = sum(p.numel() for p in model.parameters())
    args.out.mkdir(parents=True, exist_ok=True)
    greedy = [prompt_tokens(tokenizer, p["text"]) for p in load_prompts(args.prompts, args.greedy)]
    if args.text:
        texts = Texts.load(args.text)
        total = sum(len(s.tokens) for s in texts.sequences)
        seconds = estimate(parameters, total, 0, 0)
    else:
        most = args.count * args.tokens + args.greedy * args.greedy_tokens
        seconds = estimate(parameters, most, most, args.tokens + args.greedy_tokens)
    reporter.event("estimate", seconds=round(seconds, 1))
    said = f"(about {max(1, round(seconds))} s in all)"
    if not args.text:
        prompts = load_prompts(args.prompts, args.count)
        starts = [prompt_tokens(tokenizer, p["text"]) for p in prompts]
        reporter.progress(f"the reference writes the text {said}")
        made = write(model, starts, args.tokens, True, args.seed)
        texts = Texts(
            [
                Sequence(p["id"], start + more, len(start) - 1)
                for p, start, more in zip(prompts, starts, made, strict=True)
            ]
        )
        reporter.progress(f"the reference continues prompts {said}", 0.4)
        texts.reference_greedy = write(model, greedy, args.greedy_tokens, False, args.seed)
    texts.greedy_prompts, texts.greedy_tokens = greedy, args.greedy_tokens
    texts.stops = stops(model)
    if not any(s.targets for s in texts.sequences):
        raise ScriptError("no-text", "the model wrote no text to measure on")
    vocabulary = read(
        model,
        texts,
        args.out,
        lambda share: reporter.progress(f"the reference reads the text {said}", share),
    )
    texts.save(args.out / NAME)
    np.save(args.out / ROTARY, rotary_tables(model), allow_pickle=False)
    chats = json.dumps(expected(tokenizer, args.prompts))
    (args.out / CHAT).write_text(chats, encoding="utf-8")
    return {
        "parameters": parameters,
        "vocabulary": vocabulary,
        "positions": sum(len(s.targets) for s in texts.sequences),
        "estimated_seconds": round(seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--greedy", type=int, default=12)
    parser.add_argument("--greedy-tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=20261122)
    run(parser, work)
