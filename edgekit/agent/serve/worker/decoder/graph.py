"""Reads the properties of a model's graph that a decoder needs from the model's folder."""

from __future__ import annotations

import logging
import mmap
import re
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.serve.worker.decoder import Limits
from edgekit.agent.serve.worker.decoder.memory import free_bytes, room_for
from edgekit.agent.serve.worker.pictures.family import VisionFamily, family_of
from edgekit.core.pictures import takes_pictures

log = logging.getLogger(__name__)

KV_ELEMENT_BYTES = 4  # the CPU graphs have float32 keys and values
LOGIT_BYTES = 4
FEATURE_BYTES = 4
# A beam search writes no buffer in place: each step allocates keys and values again. Most of the
# memory is the old ones that the runtime's arena keeps. Measured: 1.7 and 6.7 copies for SmolLM2.
BEAM_PROMPT_COPIES, BEAM_ANSWER_COPIES = 2, 7
# The comparison that chooses between LongRoPE's factors, as the model builder writes it.
_ROPE_THRESHOLD = re.compile(
    rb"/model/constants/INT64/(\d+)\x12.{1,2}/model/rope_caches_subgraph/Greater/output_0",
    re.DOTALL,
)
_SLOT_INPUTS = {"input_ids", "attention_mask", "past_key_names", "past_value_names"}
_SLOT_OUTPUTS = {"logits", "present_key_names", "present_value_names"}


class SlidingWindow(msgspec.Struct, frozen=True):
    """The sliding window: about how many positions the runtime keeps, and of which layers.

    The builder also writes a window that no layer has; without the list, it is that of all layers.
    """

    window_size: int = 0
    layers: tuple[int, ...] | None = None


class Decoding(msgspec.Struct, frozen=True):
    """The object `model.decoder` in genai_config.json."""

    filename: str
    num_hidden_layers: int
    num_key_value_heads: int
    head_size: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    sliding_window: SlidingWindow | None = None
    hidden_size: int = 0


class Graph(msgspec.Struct, frozen=True):
    """A model's graph: its file, dimensions, input and output names, and padding token.

    Attributes:
        embedding, vision: the two graphs beside it of a model that takes pictures.
        family: of such a model.
    """

    path: Path
    decoder: Decoding
    vocabulary: int
    padding: int
    embedding: Path | None = None
    vision: Path | None = None
    family: VisionFamily | None = None

    @property
    def window(self) -> int:
        """The sliding window in tokens; 0 where no layer has one.

        The KV memory of a slot holds at least as many tokens, else the runtime fails at the first
        one (onnxruntime 1.32: "KV cache capacity must be at least local_window_size").
        """
        window = self.decoder.sliding_window
        return 0 if window is None or window.layers == () else window.window_size

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        decoder = self.decoder
        elements = decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_size
        return 2 * elements * KV_ELEMENT_BYTES

    def beam_bytes(self, prompt: int, answer: int) -> int:
        """Return one beam's bytes: keys and values, and the logits of the whole prompt."""
        copies = BEAM_PROMPT_COPIES * prompt + BEAM_ANSWER_COPIES * answer
        return copies * self.token_bytes + prompt * self.vocabulary * LOGIT_BYTES

    @property
    def row_bytes(self) -> int:
        """Bytes of the features of one row of a picture."""
        return self.decoder.hidden_size * FEATURE_BYTES

    @property
    def takes_slots(self) -> bool:
        """Whether its inputs are exactly those of a `SlotDecoder`: ids, mask, keys, values."""
        return set(self.decoder.inputs) == _SLOT_INPUTS and set(self.decoder.outputs) == (
            _SLOT_OUTPUTS
        )


def read_graph(model_dir: Path) -> Graph:
    """Read the graph's properties from `genai_config.json`."""
    config: dict[str, Any] = msgspec.json.decode((model_dir / "genai_config.json").read_bytes())
    model = config["model"]
    decoder = msgspec.convert(model["decoder"], Decoding)
    beside: dict[str, Any] = {}
    if takes_pictures(model):
        beside = {part: model_dir / model[part]["filename"] for part in ("embedding", "vision")}
        beside["family"] = family_of(model)
    return Graph(
        *(model_dir / decoder.filename, decoder, model["vocab_size"], model["pad_token_id"]),
        **beside,
    )


def limits_of(graph: Graph, max_length: int, slots: int, aside: int = 0) -> Limits:
    """Return a decoder's limits by the free memory; call it once the model is loaded.

    Args:
        graph: the model's graph.
        max_length: tokens of a slot. If the memory does not hold so many, the length is lowered and
            a warning is logged.
        slots: how many slots; 0 takes as many as the memory allows.
        aside: bytes of the free memory that something else will take.

    Raises:
        OutOfMemoryError: the memory does not hold the shortest slot.
    """
    free = max(0, free_bytes() - aside)
    room = room_for(graph.token_bytes, max_length, free, slots, least=graph.window)
    length = min(max_length, room.length)
    if length < max_length:
        log.warning(
            "the context is lowered from %d to %d tokens, in one slot: %.0f MB are free, "
            "%d tokens take %.0f MB and %d take %.0f MB of keys and values",
            *(max_length, length, free / 1e6),
            *(max_length, graph.token_bytes * max_length / 1e6),
            *(length, graph.token_bytes * length / 1e6),
        )
    return Limits(
        slots=room.slots,
        max_length=length,
        vocabulary=graph.vocabulary,
        # tokens that left the window cannot be restored
        can_truncate=not graph.window or graph.window >= length,
        rope_threshold=rope_threshold(graph.path, length),
    )


def rope_threshold(graph: Path, max_length: int) -> int | None:
    """Return the length above which a LongRoPE graph takes its long factors.

    None if the graph has no such length, or a slot cannot exceed it.
    """
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = _ROPE_THRESHOLD.search(data)
        threshold = int(found[1]) if found else None
    return threshold if threshold is not None and threshold < max_length else None
