"""GeneratorDecoder: onnxruntime-genai behind the decoder boundary, for every family it knows.

The decoder drives the runtime with `append_tokens`, `get_logits` and `rewind_to`. Only `greedy`
uses `generate_next_token`, which leaves its token appended but not computed. An `append_tokens` on
top of that gives wrong logits (off by 1.8 to 4.1, measured). So the decoder marks such a token as
*pending* and feeds it again with the tokens that follow. See docs/adr/0003.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime_genai as og

from edgekit.agent.serve.worker.decoder import Limits, Logits, RuntimeOptions
from edgekit.agent.serve.worker.decoder.graph import Graph, limits_of, read_graph
from edgekit.agent.serve.worker.decoder.memory import beams_for, free_bytes

# These options make the search greedy, whatever the model's own search defaults are.
GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
}


def load_model(model_dir: Path, options: RuntimeOptions) -> og.Model:
    """Load the runtime's model with these session options."""
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
) -> tuple[GeneratorDecoder, GenaiBeamSearch | None]:
    """Load a model folder; `open_model` describes the arguments."""
    model = load_model(model_dir, options)
    graph = read_graph(model_dir)
    limits = limits_of(graph, max_length, slots)
    decoder = GeneratorDecoder(model, limits, graph.padding, graph.window)
    # With beams the runtime has no cache that it writes in place, and a window needs one
    # ("KV cache capacity (0) must be at least local_window_size").
    return decoder, None if graph.window else GenaiBeamSearch(model, graph)


class GeneratorDecoder:
    """One `og.Generator` per slot; a step computes one slot after the other.

    Args:
        model: the loaded model.
        limits: its limits.
        padding: the padding token.
        window: the sliding window in tokens; the KV memory of a slot holds at least as many.
    """

    vision = None

    def __init__(self, model: og.Model, limits: Limits, padding: int, window: int = 0) -> None:
        self._slots = [_Slot(model, limits, padding, window) for _ in range(limits.slots)]
        can_truncate = limits.can_truncate and self._slots[0].can_truncate()
        for slot in self._slots:
            slot.may_leave_pending = can_truncate
        self.limits = msgspec.structs.replace(limits, can_truncate=can_truncate)

    def length(self, slot: int) -> int:
        """Return the number of tokens in the slot, including the pending one."""
        return self._slots[slot].length

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Append one slice."""
        return self._slots[slot].extend(tokens)

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        """Append one token per slot."""
        return {slot: self._slots[slot].extend([token]) for slot, token in tokens.items()}

    def greedy(self, slot: int) -> int:
        """Let the runtime choose a token; it computes that token's logits only on demand."""
        return self._slots[slot].greedy()

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens from `length` on."""
        self._slots[slot].truncate(length)


class _Slot:
    def __init__(self, model: og.Model, limits: Limits, padding: int, window: int) -> None:
        params = og.GeneratorParams(model)
        capacity = max(limits.max_length, window)
        params.set_search_options(max_length=capacity, batch_size=1, **GREEDY)
        self._new = partial(og.Generator, model, params)
        self._generator = self._new()
        self._padding = padding
        self._rope_threshold = limits.rope_threshold
        self._pending: int | None = None
        self.may_leave_pending = False  # only if `extend` can truncate it
        # Counted here: the runtime's token_count() omits a chosen token that ends the answer.
        self.length = 0

    def extend(self, tokens: Sequence[int]) -> Logits:
        if self._pending is not None:
            tokens = [self._pending, *tokens]
            self.truncate(self.length - 1)
        self._generator.append_tokens(np.asarray(tokens, dtype=np.int32))
        self.length += len(tokens)
        logits: Logits
        if len(tokens) > 1 and tokens[-1] == self._padding:
            # get_logits() returns the row of the last token that is not padding, and the padding
            # token often is the end-of-turn token: take the last row of the whole output.
            logits = self._generator.get_output("logits")[0, -1]
            self._generator.set_logits(logits.reshape(1, -1))  # for `greedy`
        else:
            logits = self._generator.get_logits().reshape(-1)
        return logits

    def greedy(self) -> int:
        crossed = self._rope_threshold is not None and self.length == self._rope_threshold + 1
        # Here the runtime would compute the whole slot again, which the caller just did.
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
        """Try to rewind: the runtime refuses it for windowed caches and states without a length."""
        self.extend([self._padding] * 3)
        try:
            self._generator.rewind_to(2)
        except RuntimeError:
            return False
        finally:
            self.truncate(0)
        return True


class GenaiBeams:
    """One beam search on its own Generator, which is freed with it.

    The prompt goes in with one append, since slices crash a Generator with beams.
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
        """Lengthen every beam by one token; return False once the search is over."""
        if not self._generator.is_done():
            self._generator.generate_next_token()
        return not self._generator.is_done()

    def best(self) -> list[int]:
        """Return the answer's tokens of the best sequence."""
        return [int(token) for token in self._generator.get_sequence(0)[self._prompt_length :]]


class GenaiBeamSearch:
    """Starts beam searches of one model."""

    def __init__(self, model: og.Model, graph: Graph) -> None:
        self._model = model
        self._graph = graph

    def __call__(
        self, prompt: Sequence[int], beams: int, answer_limit: int, length_penalty: float
    ) -> GenaiBeams:
        """Compute the prompt and start a search."""
        return GenaiBeams(self._model, prompt, beams, answer_limit, length_penalty)

    def room(self, prompt: int, answer: int) -> int:
        """Return how many beams fit into the memory that is free now."""
        return beams_for(self._graph.beam_bytes(prompt, answer), free_bytes())
