"""Runs a model that takes pictures with onnxruntime, as the device's agent does.

onnxruntime-genai's own Generator of such a model takes no picture after text.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


class SeeingModel:
    """The three graphs of a model; the same calls as `BuiltModel`, and pictures.

    Raises:
        RuntimeError: the runtime does not load a graph.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        told = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self._told, self._sees = told["decoder"], told["vision"]["inputs"]
        stops = told["eos_token_id"]
        self._stops = set(stops if isinstance(stops, list) else [stops])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        self._vision, self._embedding, self._text = (
            onnxruntime.InferenceSession(str(folder / part["filename"]), options)
            for part in (told["vision"], told["embedding"], told["decoder"])
        )
        self._width = self._embedding.get_outputs()[0].shape[2]

    def features(self, views: np.ndarray, height: int, width: int) -> np.ndarray:
        """Rows [tokens, hidden] of a picture.

        Args:
            views: f32 [views, 3, side, side], in the order of the reference.
        """
        given = {"pixel_values": views[None]}
        if "image_sizes" in self._sees:  # of a family whose graph puts the views together
            size = [height * views.shape[2], width * views.shape[3]]
            given["image_sizes"] = np.array([size], np.int64)
        return self._vision.run(None, given)[0]

    def logits(self, tokens: list[int], features: np.ndarray | None = None) -> np.ndarray:
        """Logits at every position, shape (tokens, vocabulary).

        Args:
            tokens: below 0 for the rows of a picture.
            features: these rows.
        """
        embedded = self._embedded(tokens, features)
        rows, _ = self._read(embedded, self._empty())
        if len(rows) == len(tokens):
            return rows
        cache, found = self._empty(), []  # built with prune_lm_head: the last row alone
        for at in range(len(tokens)):
            rows, cache = self._read(embedded[:, at : at + 1], cache)
            found.append(rows[-1])
        return np.stack(found)

    def in_pieces(
        self, tokens: list[int], lengths: Iterable[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Read through the cache, one piece after the other; see `BuiltModel.in_pieces`."""
        cache, end = self._empty(), 0
        for length in lengths:
            piece = tokens[end : end + length]
            rows, cache = self._read(self._embedded(piece), cache)
            end += len(piece)
            yield end - len(rows), rows

    def continued(
        self, tokens: list[int], most: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[int]:
        """The next tokens, at most `most`, up to and including the one that ends the text."""
        random, cache, piece = np.random.default_rng(seed), self._empty(), tokens
        for _ in range(most):
            rows, cache = self._read(self._embedded(piece), cache)
            last = rows[-1].astype(np.float64)
            if temperature:
                odds = np.exp((last - last.max()) / temperature)
                token = int(random.choice(len(odds), p=odds / odds.sum()))
            else:
                token = int(last.argmax())
            yield token
            if token in self._stops:
                return
            piece = [token]

    def _embedded(self, tokens: list[int], features: np.ndarray | None = None) -> np.ndarray:
        rows = np.zeros((0, self._width), np.float32) if features is None else features
        ids = np.array([tokens], np.int64)
        return self._embedding.run(None, {"input_ids": ids, "image_features": rows})[0]

    def _empty(self) -> list[np.ndarray]:
        heads, size = self._told["num_key_value_heads"], self._told["head_size"]
        none = np.zeros((1, heads, 0, size), np.float32)
        return [none] * (2 * self._told["num_hidden_layers"])

    def _read(
        self, embedded: np.ndarray, cache: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits of the last tokens, and the cache with them."""
        inputs, outputs = self._told["inputs"], self._told["outputs"]
        length = cache[0].shape[2] + embedded.shape[1]
        given: dict[str, Any] = {
            inputs["inputs_embeds"]: embedded,
            inputs["attention_mask"]: np.ones((1, length), np.int64),
        }
        past, present = (
            [
                names[f"{when}_{part}_names"].replace("%d", str(layer))
                for layer in range(self._told["num_hidden_layers"])
                for part in ("key", "value")
            ]
            for names, when in ((inputs, "past"), (outputs, "present"))
        )
        given |= dict(zip(past, cache, strict=True))
        found = self._text.run([outputs["logits"], *present], given)
        return found[0][0], found[1:]
