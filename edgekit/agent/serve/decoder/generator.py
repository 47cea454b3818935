"""GeneratorDecoder: onnxruntime-genai behind the decoder boundary, every model family it knows.

Driven by `append_tokens`, `get_logits` and `rewind_to`. `generate_next_token` serves `greedy`
alone: it leaves its token appended but not computed, and an `append_tokens` on top of that gives
wrong logits (off by 1.8 to 4.1, measured), so such a token is *pending* here and goes in again
with what follows. See docs/adr/0003.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

# Both libraries carry an uploader that is on by default and looks at this before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime_genai as og

from edgekit.agent.serve.decoder import Limits, Logits

# Greedy by definition, whatever the model's own search defaults are.
_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
}


def open_genai(
    model_dir: Path, max_length: int, threads: int
) -> tuple[GeneratorDecoder, GenaiTokenizer]:
    """Load a model folder with `threads` CPU threads and `max_length` tokens of KV memory."""
    config = og.Config(str(model_dir))
    # The default is half of the cores, and cgroup limits are not seen.
    options = {"intra_op_num_threads": threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = og.Model(config)
    padding = json.loads((model_dir / "genai_config.json").read_bytes())["model"]["pad_token_id"]
    return GeneratorDecoder(model, max_length, padding), GenaiTokenizer(model)


class GeneratorDecoder:
    """One slot on one `og.Generator`."""

    def __init__(self, model: og.Model, max_length: int, padding: int) -> None:
        self.limits = Limits(slots=1, max_length=max_length)
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=max_length, batch_size=1, **_GREEDY)
        self._generator = og.Generator(model, params)
        self._padding = padding
        self._pending: int | None = None
        # Counted here: the runtime's token_count() leaves out a chosen token that ends the answer.
        self._length = 0

    def length(self, slot: int) -> int:
        """Tokens in the slot, the pending one included."""
        return self._length

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Append one slice."""
        if self._pending is not None:
            tokens = [self._pending, *tokens]
            self.truncate(slot, self._length - 1)
        self._generator.append_tokens(np.asarray(tokens, dtype=np.int32))
        self._length += len(tokens)
        logits: Logits
        if len(tokens) > 1 and tokens[-1] == self._padding:
            # get_logits() answers for the last token that is not padding, and the padding token
            # is often the one that ends a turn: take the last row of the whole output instead.
            logits = self._generator.get_output("logits")[0, -1]
            self._generator.set_logits(logits.reshape(1, -1))  # for `greedy`
        else:
            logits = self._generator.get_logits().reshape(-1)
        return logits

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        """Append one token per slot."""
        return {slot: self.extend(slot, [token]) for slot, token in tokens.items()}

    def greedy(self, slot: int) -> int:
        """Let the runtime choose; it computes the token's own logits when they are asked for."""
        self._generator.generate_next_token()
        self._pending = int(self._generator.get_next_tokens()[0])
        self._length += 1
        return self._pending

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens from `length` on."""
        if length < self._length:
            self._generator.rewind_to(length)
            self._length, self._pending = length, None


class GenaiTokenizer:
    """The model's tokenizer and chat template, as onnxruntime-genai runs them."""

    def __init__(self, model: og.Model) -> None:
        self._tokenizer = og.Tokenizer(model)
        self.eos_token_ids = frozenset(int(i) for i in self._tokenizer.eos_token_ids)

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Chat template and encoding; developer messages are system messages to a template."""
        turns = [
            {"role": "system" if role == "developer" else role, "content": content}
            for role, content in messages
        ]
        text = self._tokenizer.apply_chat_template(json.dumps(turns), add_generation_prompt=True)
        return [int(i) for i in self._tokenizer.encode(text)]

    def stream(self) -> og.TokenizerStream:
        """A stream that holds incomplete characters back."""
        return self._tokenizer.create_stream()
