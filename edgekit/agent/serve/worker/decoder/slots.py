"""SlotDecoder: plain onnxruntime on the same graph, one step over all slots in one batch.

It takes graphs whose inputs are exactly token ids (or embeddings: `pictured`), mask and float
key/value caches of rank 4. The
mask's row sums tell the operators each row's own length, so slots of different lengths decode in
one run. Key and value caches are one buffer per layer, bound as past and present and written in
place.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgekit.agent.serve.worker.decoder import Limits, Logits, RuntimeOptions, Vision
from edgekit.agent.serve.worker.decoder.graph import Graph, limits_of

Ints = npt.NDArray[np.int64]
Embed = Callable[[Sequence[Sequence[int]]], npt.NDArray[np.float32]]


class SlotDecoder:
    """Slots of one graph.

    Args:
        session: the session of a graph that `takes_slots`.
        graph: the same graph.
        limits: slots, length, vocabulary and LongRoPE's threshold.
        embed: makes embeddings of slot items, for a graph that takes these in place of ids.
        vision: what sees pictures for `embed`.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        graph: Graph,
        limits: Limits,
        embed: Embed | None = None,
        vision: Vision | None = None,
    ) -> None:
        self._session = session
        self._embed = embed
        self.vision = vision
        logits = next(out for out in session.get_outputs() if out.name == "logits")
        self._last_alone = logits.shape[1] == 1  # built with prune_lm_head
        self.limits = msgspec.structs.replace(limits, batched=True)
        self._lengths = [0] * limits.slots
        self._logits: dict[int, Logits] = {}  # after a slot's last token, if that is computed
        self._pending: dict[int, int] = {}  # chosen by `greedy`, not computed yet
        config = graph.decoder
        capacity = max(limits.max_length, graph.window)
        shape = (limits.slots, config.num_key_value_heads, capacity, config.head_size)
        names = [
            (config.inputs[f"past_{kind}_names"], config.outputs[f"present_{kind}_names"])
            for kind in ("key", "value")
        ]
        self._caches = [
            (past % layer, present % layer, _zeros(shape))
            for layer in range(config.num_hidden_layers)
            for past, present in names
        ]

    def length(self, slot: int) -> int:
        """Return the number of tokens in the slot, including the pending one."""
        return self._lengths[slot]

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Append one slice."""
        pending = self._pending.pop(slot, None)
        if pending is not None:
            tokens = [pending, *tokens]
            self._lengths[slot] -= 1
        logits = self._run(slot, [list(tokens)])[0]
        self._logits[slot] = logits
        return logits

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        """Append one token to each of the slots; neighbours share a run."""
        stepped: dict[int, Logits] = {}
        for slot in sorted(set(tokens) & set(self._pending)):
            stepped[slot] = self.extend(slot, [tokens[slot]])
        for run in _runs(sorted(set(tokens) - set(stepped)), self._is_long):
            rows = self._run(run[0], [[tokens[slot]] for slot in run])
            stepped |= dict(zip(run, rows, strict=True))
        self._logits |= stepped
        return stepped

    def greedy(self, slot: int) -> int:
        """Append the arg-max; the next call computes it, with the tokens that follow."""
        pending = self._pending.pop(slot, None)
        if pending is not None:
            self._lengths[slot] -= 1
            self._logits[slot] = self._run(slot, [[pending]])[0]
        token = int(self._logits[slot].argmax())
        if self._lengths[slot] == self.limits.max_length:
            raise RuntimeError("the slot is full")
        self._pending[slot] = token
        self._lengths[slot] += 1
        return token

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens from `length` on."""
        if length < self._lengths[slot]:
            self._lengths[slot] = length
            self._pending.pop(slot, None)
            self._logits.pop(slot, None)

    def _is_long(self, slot: int) -> bool:
        """Whether its next token needs the long rotary factors; a run has one kind for all rows."""
        rope = self.limits.rope_threshold
        return rope is not None and self._lengths[slot] >= rope

    def _run(self, first: int, rows: Sequence[Sequence[int]]) -> list[Logits]:
        """Compute tokens for neighbouring slots from `first` on, the same number for each."""
        count, size = len(rows), len(rows[0])
        lengths = [self._lengths[first + row] + size for row in range(count)]
        if max(lengths) > self.limits.max_length:
            raise RuntimeError("more tokens than the slot holds")
        given: Ints | Logits
        if self._embed is None:
            name, given = "input_ids", np.asarray(rows, dtype=np.int64)
        else:
            name, given = "inputs_embeds", self._embed(rows)
        mask: Ints = np.zeros((count, max(lengths)), dtype=np.int64)
        for row, length in enumerate(lengths):
            mask[row, :length] = 1
        said = 1 if self._last_alone else size
        logits = np.empty((count, said, self.limits.vocabulary), dtype=np.float32)
        binding = self._session.io_binding()
        binding.bind_cpu_input(name, given)
        binding.bind_cpu_input("attention_mask", mask)
        for past, present, cache in self._caches:
            rows_of = cache[first : first + count]
            where = ("cpu", 0, np.float32, rows_of.shape, rows_of.ctypes.data)
            binding.bind_input(past, *where)
            binding.bind_output(present, *where)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        for row, length in enumerate(lengths):
            self._lengths[first + row] = length
        return [logits[row, -1] for row in range(count)]


def open_slots(graph: Graph, max_length: int, options: RuntimeOptions, slots: int) -> SlotDecoder:
    """Load a graph that `takes_slots`; `open_model` describes the arguments."""
    session = load_session(graph.path, options)
    # Counted after the load: weights take more memory than their files, 119 MB for SmolLM2's 88.
    limits = limits_of(graph, max_length, slots)
    return SlotDecoder(session, graph, limits)


def load_session(path: Path, options: RuntimeOptions) -> ort.InferenceSession:
    """Load a graph and its weights with these session options."""
    session = ort.SessionOptions()
    if options.threads:
        session.intra_op_num_threads = options.threads
    if options.spinning is not None:
        spinning = str(int(options.spinning))
        session.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    return ort.InferenceSession(str(path), session, providers=["CPUExecutionProvider"])


def _runs(slots: Sequence[int], kind: Callable[[int], bool]) -> list[list[int]]:
    """Return the slots in groups of neighbours of one kind."""
    runs: list[list[int]] = [[slots[0]]] if slots else []
    for before, slot in pairwise(slots):
        if slot == before + 1 and kind(slot) == kind(before):
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return runs


def _zeros(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """An array whose memory is taken page by page as it is written.

    numpy's own allocation asks for huge pages, and takes 250 MB at once.
    """
    count = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, count * 4), dtype=np.float32).reshape(shape)
