"""Writes the text for a source that is too large to write it: the built model continues prompts.

    python write_text.py --model FOLDER --source FOLDER --prompts FILE --out FILE

The prompts, which are shipped with edgekit, are scored, too: a model that is too broken to write is
still measured on text by humans.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common.reporting import Reporter, run
from gate.logits import Sequence, Texts
from gate.runtime import BuiltModel, refusal
from gate.text import load_prompts, prompt_tokens

TEMPERATURE = 0.8


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Write the file; return the result event."""
    from transformers import AutoTokenizer

    reporter.progress("loading the model")
    tokenizer = AutoTokenizer.from_pretrained(args.source)
    vocabulary = json.loads((args.source / "config.json").read_text()).get("vocab_size")
    try:
        model = BuiltModel(args.model)
    except Exception as error:  # whatever the runtime raises
        return refusal(error)
    prompts = load_prompts(args.prompts, args.count)
    sequences = []
    for number, prompt in enumerate(prompts):
        reporter.progress("the model writes the text", number / len(prompts))
        start = prompt_tokens(tokenizer, prompt["text"])
        more = model.continued(start, args.tokens, TEMPERATURE, args.seed + number)
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
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--seed", type=int, default=20261122)
    run(parser, work)
