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
from functools import partial
from pathlib import Path
from typing import Any

# Both libraries carry an uploader that is on by default and looks at this before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import msgspec
import numpy as np
import onnxruntime_genai as og

from edgekit.agent.serve.worker.decoder import Limits, Logits, RuntimeOptions
from edgekit.agent.serve.worker.decoder.graph import Graph, limits_of, read_graph
from edgekit.agent.serve.worker.decoder.memory import beams_for, free_bytes

# Greedy by definition, whatever the model's own search defaults are.
GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
}


def load_model(model_dir: Path, options: RuntimeOptions) -> og.Model:
    """The runtime's model, with these session options."""
    config = og.Config(str(model_dir))
    session: dict[str, Any] = {}
    if options.threads:
        session["intra_op_num_threads"] = options.threads
    if options.spinning is not None:
        session["session.intra_op.allow_spinning"] = str(int(options.spinning))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    return og.Model(config)


def open_genai(
    model_dir: Path, max_length: int, options: RuntimeOptions, slots: int
) -> tuple[GeneratorDecoder, GenaiTokenizer, GenaiBeamSearch]:
    """Load a model folder: see `open_model`."""
    model = load_model(model_dir, options)
    graph = read_graph(model_dir)
    tokenizer = GenaiTokenizer(model)
    decoder = GeneratorDecoder(model, limits_of(graph, max_length, slots), graph.padding)
    return decoder, tokenizer, GenaiBeamSearch(model, graph)


class GeneratorDecoder:
    """One `og.Generator` per slot; a step computes one slot after the other."""

    def __init__(self, model: og.Model, limits: Limits, padding: int) -> None:
        self._slots = [_Slot(model, limits, padding) for _ in range(limits.slots)]
        can_truncate = limits.can_truncate and self._slots[0].can_truncate()
        for slot in self._slots:
            slot.may_leave_pending = can_truncate
        self.limits = msgspec.structs.replace(limits, can_truncate=can_truncate)

    def length(self, slot: int) -> int:
        """Tokens in the slot, the pending one included."""
        return self._slots[slot].length

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Append one slice."""
        return self._slots[slot].extend(tokens)

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        """Append one token per slot."""
        return {slot: self._slots[slot].extend([token]) for slot, token in tokens.items()}

    def greedy(self, slot: int) -> int:
        """Let the runtime choose; it computes the token's own logits when they are asked for."""
        return self._slots[slot].greedy()

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens from `length` on."""
        self._slots[slot].truncate(length)


class _Slot:
    def __init__(self, model: og.Model, limits: Limits, padding: int) -> None:
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=limits.max_length, batch_size=1, **GREEDY)
        self._new = partial(og.Generator, model, params)
        self._generator = self._new()
        self._padding = padding
        self._rope_threshold = limits.rope_threshold
        self._pending: int | None = None
        self.may_leave_pending = False  # it is gone back over with what follows
        # Counted here: the runtime's token_count() leaves out a chosen token that ends the answer.
        self.length = 0

    def extend(self, tokens: Sequence[int]) -> Logits:
        if self._pending is not None:
            tokens = [self._pending, *tokens]
            self.truncate(self.length - 1)
        self._generator.append_tokens(np.asarray(tokens, dtype=np.int32))
        self.length += len(tokens)
        logits: Logits
        if len(tokens) > 1 and tokens[-1] == self._padding:
            # get_logits() answers for the last token that is not padding, and the padding token
            # is often the one that ends a turn: take the last row of the whole output instead.
            logits = self._generator.get_output("logits")[0, -1]
            self._generator.set_logits(logits.reshape(1, -1))  # for `greedy`
        else:
            logits = self._generator.get_logits().reshape(-1)
        return logits

    def greedy(self) -> int:
        crossed = self._rope_threshold is not None and self.length == self._rope_threshold + 1
        # At the threshold the runtime would compute the whole slot again, as the caller just did.
        if crossed or not self.may_leave_pending:
            token = int(self._generator.get_logits().argmax())
            self.extend([token])
            return token
        self._generator.generate_next_token()
        self._pending = int(self._generator.get_next_tokens()[0])
        self.length += 1
        return self._pending

    def truncate(self, length: int) -> None:
        if length >= self.length:
            return
        try:
            self._generator.rewind_to(length)
        except RuntimeError:
            if length:
                raise
            self._generator = self._new()
        self.length, self._pending = length, None

    def can_truncate(self) -> bool:
        """Tries it: the runtime refuses to rewind windowed caches and states without a length."""
        self.extend([self._padding] * 3)
        try:
            self._generator.rewind_to(2)
        except RuntimeError:
            return False
        finally:
            self.truncate(0)
        return True


class GenaiBeams:
    """One beam search on a Generator of its own; freed with it.

    The prompt goes in with one append: slices of a Generator with beams crash the runtime.
    """

    def __init__(
        self,
        model: og.Model,
        prompt: Sequence[int],
        beams: int,
        answer_limit: int,
        length_penalty: float,
    ) -> None:
        params = og.GeneratorParams(model)
        search = GREEDY | {"num_beams": beams, "length_penalty": length_penalty}
        params.set_search_options(
            max_length=len(prompt) + answer_limit,
            batch_size=1,
            num_return_sequences=1,
            early_stopping=True,
            **search,
        )
        self._generator = og.Generator(model, params)
        self._generator.append_tokens(np.asarray(prompt, dtype=np.int32))
        self._prompt_length = len(prompt)

    def step(self) -> bool:
        """Lengthen every beam."""
        if not self._generator.is_done():
            self._generator.generate_next_token()
        return not self._generator.is_done()

    def best(self) -> list[int]:
        """The best sequence's answer."""
        return [int(token) for token in self._generator.get_sequence(0)[self._prompt_length :]]


class GenaiBeamSearch:
    """Beam searches of one model."""

    def __init__(self, model: og.Model, graph: Graph) -> None:
        self._model = model
        self._graph = graph

    def __call__(
        self, prompt: Sequence[int], beams: int, answer_limit: int, length_penalty: float
    ) -> GenaiBeams:
        """Compute the prompt."""
        return GenaiBeams(self._model, prompt, beams, answer_limit, length_penalty)

    def room(self, prompt: int, answer: int) -> int:
        """What the memory that is free now has room for."""
        return beams_for(self._graph.beam_bytes(prompt, answer), free_bytes())


class GenaiTokenizer:
    """The model's tokenizer and chat template, as onnxruntime-genai runs them.

    Args:
        model: loaded, or its folder: then no weights are.
    """

    def __init__(self, model: og.Model | str) -> None:
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
