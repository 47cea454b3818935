"""Slots of a model that takes pictures: three graphs on plain onnxruntime.

The text's graph takes embeddings. The embedding graph makes them of a slot's items: tokens, and
rows of pictures, whose features the vision graph has computed before. So a row is to everything
above the decoder what a token is: slices, kept prefixes and truncation know no difference.
onnxruntime-genai's Generator refuses to truncate such a model, and a second picture later.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from edgekit.agent.serve.worker.decoder import Features, RuntimeOptions
from edgekit.agent.serve.worker.decoder.graph import Graph, limits_of, rope_threshold
from edgekit.agent.serve.worker.decoder.slots import SlotDecoder, load_session
from edgekit.agent.serve.worker.pictures.family import VisionFamily
from edgekit.agent.serve.worker.pictures.rows import row_of


class FeatureCache:
    """The features of the pictures that were used last, by key.

    Args:
        most: bytes; two pictures stay in any case, because one slice can hold rows of both.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[int, Features] = OrderedDict()

    def keep(self, key: int, rows: Features) -> None:
        """Keep a picture's rows; those that were used longest ago make room."""
        self._kept[key] = rows
        self._kept.move_to_end(key)
        while len(self._kept) > 2 and sum(each.nbytes for each in self._kept.values()) > self._most:
            self._kept.popitem(last=False)

    def keeps(self, key: int) -> bool:
        """Return whether a picture's rows are kept, and count that as a use."""
        if key not in self._kept:
            return False
        self._kept.move_to_end(key)
        return True

    def row(self, item: int) -> Features:
        """Return the row that a slot item stands for, shape (hidden,).

        Raises:
            RuntimeError: its picture is not kept.
        """
        key, number = row_of(item)
        if key not in self._kept:
            raise RuntimeError("a picture's features are missing")
        row: Features = self._kept[key][number]
        return row


class GraphVision(FeatureCache):
    """The vision graph, and the features that it has computed.

    Args:
        family: the model's.
        most: bytes, as for `FeatureCache`.
    """

    def __init__(self, session: ort.InferenceSession, family: VisionFamily, most: int) -> None:
        super().__init__(most)
        self._session, self._alone = session, family.alone

    def look(self, view: Features) -> Features:
        """Return the features of one view alone, shape (family's `view_rows`, hidden)."""
        feed = {"pixel_values": view[None, None], **self._alone}
        found: Features = self._session.run(["image_features"], feed)[0]
        return found


class Embedder:
    """Makes embeddings of slot items.

    Args:
        session: the embedding graph.
        hidden: the width of an embedding.
        kept: the features of pictures.
    """

    def __init__(self, session: ort.InferenceSession, hidden: int, kept: FeatureCache) -> None:
        self._session = session
        self._none = np.zeros((0, hidden), np.float32)
        self._kept = kept

    def __call__(self, rows: Sequence[Sequence[int]]) -> Features:
        """Return the embeddings, shape (len(rows), items, hidden)."""
        features = [self._kept.row(item) for items in rows for item in items if item < 0]
        ids = np.array([[max(item, -1) for item in items] for items in rows], np.int64)
        feed = {"input_ids": ids, "image_features": np.stack(features) if features else self._none}
        found: Features = self._session.run(["inputs_embeds"], feed)[0]
        return found


def open_pictured(
    graph: Graph, max_length: int, options: RuntimeOptions, slots: int, kept_rows: int
) -> SlotDecoder:
    """Load the graphs of a model that takes pictures; `open_model` describes the arguments.

    A slot is no longer than LongRoPE's short factors reach.
    """
    assert graph.embedding is not None
    assert graph.vision is not None
    assert graph.family is not None
    text = load_session(graph.path, options)
    embedding = load_session(graph.embedding, options)
    kept_bytes = kept_rows * graph.row_bytes
    vision = None
    if kept_rows:
        vision = GraphVision(load_session(graph.vision, options), graph.family, kept_bytes)
        # A graph that cannot see fails here, and not at the first picture. What a run takes of the
        # memory is taken before the free memory is counted.
        side = graph.family.side
        found = vision.look(np.zeros((3, side, side), np.float32))
        wanted = (graph.family.view_rows, graph.decoder.hidden_size)
        if found.shape != wanted:
            raise RuntimeError(f"the vision graph makes {found.shape} of a view, not {wanted}")
    embed = Embedder(embedding, graph.decoder.hidden_size, vision or FeatureCache(0))
    length = rope_threshold(graph.path, max_length) or max_length
    return SlotDecoder(text, graph, limits_of(graph, length, slots, kept_bytes), embed, vision)
