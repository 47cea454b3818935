"""Writes the text for a source that is too large to write it: the built model continues prompts.

    python write_text.py --model FOLDER --source FOLDER --prompts FILE --amounts JSON --out FILE

The prompts, which are shipped with edgekit, are scored, too: a model that is too broken to write is
still measured on text by humans.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from common.reporting import Reporter, run
from gate.clock import announce, reading_seconds
from gate.duration import Amounts, Speeds, parts
from gate.logits import Sequence, Texts
from gate.runtime import open_model, refusal
from gate.text import load_prompts, prompt_tokens

TEMPERATURE = 0.8


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Write the file; return the result event."""
    from transformers import AutoTokenizer

    began = time.perf_counter()
    reporter.progress("loading the model")
    tokenizer = AutoTokenizer.from_pretrained(args.source)
    vocabulary = json.loads((args.source / "config.json").read_text()).get("vocab_size")
    try:
        model = open_model(args.model)
    except Exception as error:  # whatever the runtime raises
        return refusal(error)
    loaded = time.perf_counter() - began
    amounts = Amounts(**json.loads(args.amounts))
    prompts = load_prompts(args.prompts, amounts.texts)
    sequences, said = [], ""
    for number, prompt in enumerate(prompts):
        reporter.progress(f"the model writes the text{said}", number / len(prompts))
        start, began = prompt_tokens(tokenizer, prompt["text"]), time.perf_counter()
        more = list(model.continued(start, amounts.tokens, TEMPERATURE, args.seed + number))
        if number == 0:
            single = (time.perf_counter() - began) / max(1, len(more))
            read = reading_seconds(amounts.parameters)
            total = announce(parts(amounts, Speeds(loaded, read, 0.0, single)), reporter)
            said = f" (about {round(total)} s in all)"
        # a padded head can name tokens that the reference does not have
        known = [t for t in more if vocabulary is None or t < vocabulary]
        sequences.append(Sequence(prompt["id"], start + known, 0))
    Texts(sequences).save(args.out)
    return {"tokens": sum(len(s.tokens) for s in sequences)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--amounts", required=True, help="JSON of gate/duration.py's Amounts")
    parser.add_argument("--seed", type=int, default=20261122)
    run(parser, work)
