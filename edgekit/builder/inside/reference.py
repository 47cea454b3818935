"""Computes the reference: the full-precision logits that the gate compares a built model with.

    python reference.py --source FOLDER --prompts FILE --out FOLDER --amounts JSON [--text FILE]

Without `--text` the source model writes the text (sampled at temperature 0.8 with a fixed seed) and
continues prompts greedily; for that it is held in float32 as a whole. With `--text` (a file of
`write_text.py`) the model only reads: its weights stay mapped, and one matrix at a time is in
float32. `gate/logits.py` defines the format of the output. The result event has parameters,
positions, vocabulary and seconds.
"""

import argparse
import inspect
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from common.first_cosine import compute_first_cosine
from common.reporting import Reporter, ScriptError, run
from gate.chat import NAME as CHAT
from gate.chat import expected
from gate.clock import Clock
from gate.duration import Amounts
from gate.logits import NAME, Sequence, Texts, save_logits
from gate.longtext import ID, long_tokens
from gate.rotary import NAME as ROTARY
from gate.rotary import POSITIONS
from gate.text import load_prompts, prompt_tokens, stops

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


def read(model: Any, texts: Texts, out: Path, tell: Callable[[float], None]) -> int:
    """Save the logits of all texts; return the size of the vocabulary.

    Several sequences form one batch, padded on the right, which earlier positions do not attend
    to. Every weight is read once per pass, however many texts are in it.
    """
    import torch

    vocabulary = model.get_output_embeddings().weight.shape[0]
    pad = stops(model)[:1] or [0]
    every = texts.every
    passes = _passes(every, vocabulary)
    done = 0
    for numbers in passes:
        tell(done / len(every))
        chosen = [every[n] for n in numbers]
        width = max(len(s.tokens) for s in chosen)
        ids = torch.tensor([s.tokens + pad * (width - len(s.tokens)) for s in chosen])
        mask = torch.tensor([[int(i < len(s.tokens)) for i in range(width)] for s in chosen])
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, (n, s) in enumerate(zip(numbers, chosen, strict=True)):
            save_logits(out, n, logits[row, s.first : len(s.tokens) - 1].numpy())
        del logits
        done += len(numbers)
    return vocabulary


def _passes(sequences: list[Sequence], vocabulary: int) -> list[list[int]]:
    """Batches of sequence numbers: similar lengths, and logits within LOGITS_BYTES."""
    rows = max(1, LOGITS_BYTES // (4 * vocabulary))
    passes: list[list[int]] = []
    for n in sorted(range(len(sequences)), key=lambda n: -len(sequences[n].tokens)):
        longest = len(sequences[passes[-1][0]].tokens) if passes else 0
        alike = 2 * len(sequences[n].tokens) >= longest  # the rest of a row is padding
        if passes and alike and (len(passes[-1]) + 1) * longest <= rows:
            passes[-1].append(n)
        else:
            passes.append([n])
    return passes


def rotary_tables(model: Any) -> np.ndarray:
    """Cosines and sines, shape (tables, 2, positions, half of the rotary width).

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
                both = module(torch.zeros(1, 1, 1), torch.tensor([POSITIONS]), **more)
                rows = [each.float().numpy().reshape(len(POSITIONS), -1) for each in both]
                tables.append(np.stack(rows))
    widths = {table.shape[2] for table in tables}
    if len(widths) != 1:
        return np.zeros((0, 2, len(POSITIONS), 1), np.float32)
    # both halves of the table are equal
    return np.stack(tables)[..., : max(1, widths.pop() // 2)]


def _written(
    model: Any, tokenizer: Any, args: argparse.Namespace, reporter: Reporter, clock: Clock
) -> Texts:
    """The texts and continuations that the source itself writes."""
    from gate.writing import Pace, write

    amounts = clock.amounts
    prompts = load_prompts(args.prompts, amounts.texts)
    starts = [prompt_tokens(tokenizer, p["text"]) for p in prompts]
    greedy = [
        prompt_tokens(tokenizer, p["text"]) for p in load_prompts(args.prompts, amounts.greedy)
    ]
    most = max(amounts.tokens, amounts.greedy_tokens)

    def tell(pace: Pace) -> None:
        clock.written(pace)
        share = (len(pace.at) - 1) / most
        reporter.progress(f"the reference writes the text{clock.said}", share)

    made = write(model, starts, amounts.tokens, greedy, amounts.greedy_tokens, args.seed, tell)
    texts = [
        Sequence(p["id"], start + more, len(start) - 1)
        for p, start, more in zip(prompts, starts, made.sampled, strict=True)
    ]
    return Texts(texts, greedy, amounts.greedy_tokens, made.greedy)


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Write the folder of the reference; return the result event."""
    reporter.progress("loading the reference")
    amounts = Amounts(**json.loads(args.amounts))
    clock = Clock(amounts, reporter)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.source)
    model = load(args.source, args.adapter, mapped=args.text is not None)
    parameters = sum(p.numel() for p in model.parameters())
    clock.loaded()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.text:
        clock.reads()
        texts = Texts.load(args.text)
        chosen = load_prompts(args.prompts, amounts.greedy)
        texts.greedy_prompts = [prompt_tokens(tokenizer, p["text"]) for p in chosen]
        texts.greedy_tokens = amounts.greedy_tokens
    else:
        texts = _written(model, tokenizer, args, reporter, clock)
    texts.stops = stops(model)
    if not any(s.targets for s in texts.sequences):
        raise ScriptError("no-text", "the model wrote no text to measure on")
    if made := long_tokens(tokenizer, min(amounts.long, _context(model))):
        texts.long = Sequence(ID, *made)
    vocabulary = read(
        model,
        texts,
        args.out,
        lambda share: reporter.progress(f"the reference reads the text{clock.said}", share),
    )
    texts.save(args.out / NAME)
    np.save(args.out / ROTARY, rotary_tables(model), allow_pickle=False)
    chats = json.dumps(expected(tokenizer, args.prompts))
    (args.out / CHAT).write_text(chats, encoding="utf-8")
    return {
        "parameters": parameters,
        "vocabulary": vocabulary,
        "positions": sum(len(s.targets) for s in texts.sequences),
        **clock.result(),
    }


def _context(model: Any) -> int:
    """The model's context in tokens; the long text is as long where the model does not say."""
    config = model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(found) if found else 2**31


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--amounts", required=True, help="JSON of gate/duration.py's Amounts")
    parser.add_argument("--seed", type=int, default=20261122)
    run(parser, work)
