"""Runs a built model with onnxruntime-genai for the gate."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

_SEEING = ("phi3v", "smolvlm")  # types of models whose every part edgekit builds


class BuiltModel:
    """A loaded model that reads and continues tokens.

    Raises:
        RuntimeError: the runtime does not load the folder.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai as og

        self._og = og
        self._window = window_of(folder)
        config = og.Config(str(folder))
        # by default the runtime uses half of the cores
        options = {"intra_op_num_threads": len(os.sched_getaffinity(0))}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = og.Model(config)

    def _generator(self, most: int, **search: Any) -> Any:
        params = self._og.GeneratorParams(self._model)
        # the key-value cache is reserved for max_length at once, and must hold a whole window
        params.set_search_options(max_length=max(most, self._window), batch_size=1, **search)
        return self._og.Generator(self._model, params)

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Logits at every position, shape (tokens, vocabulary), float32 or float16."""
        generator = self._generator(len(tokens) + 1)
        generator.append_tokens(np.array(tokens, np.int32))
        out = generator.get_output("logits")[0]
        if len(out) == len(tokens):
            return out
        # with prune_lm_head the graph returns the last position alone: read one token at a time
        return np.concatenate([rows for _, rows in self.in_pieces(tokens, [1] * len(tokens))])

    def in_pieces(
        self, tokens: list[int], lengths: Iterable[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Read through the cache, one piece after the other.

        Args:
            lengths: number of tokens of each piece; as far as the tokens go.

        Yields:
            Position and logits of the piece's tokens, shape (tokens, vocabulary); with
            prune_lm_head those of its last token alone.
        """
        generator = self._generator(len(tokens) + 1)
        end = 0
        for length in lengths:
            piece = tokens[end : end + length]
            generator.append_tokens(np.array(piece, np.int32))
            end += len(piece)
            rows = generator.get_output("logits")[0].copy()
            yield end - len(rows), rows

    def continued(
        self, tokens: list[int], most: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[int]:
        """The next tokens, at most `most`, up to and including the one that ends the text."""
        how: dict[str, Any] = {"do_sample": False}
        if temperature:
            how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            how["random_seed"] = seed
        generator = self._generator(len(tokens) + most + 1, repetition_penalty=1.0, **how)
        generator.append_tokens(np.array(tokens, np.int32))
        for _ in range(most):
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])
            if generator.is_done():
                return


def open_model(folder: Path) -> Any:
    """The model of a folder: `BuiltModel`, or one that takes pictures, with the same calls.

    Raises:
        RuntimeError: the runtime does not load the folder.
    """
    model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    if model.get("type") not in _SEEING or not {"vision", "embedding"} <= model.keys():
        return BuiltModel(folder)
    from gate.seeing import SeeingModel

    return SeeingModel(folder)


def window_of(folder: Path) -> int:
    """The sliding window of a built model's layers, in tokens; 0 where no layer has one."""
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    window = config["model"]["decoder"].get("sliding_window") or {}
    # the builder also writes a window that no layer has
    return 0 if window.get("layers") == [] else int(window.get("window_size") or 0)


def refusal(error: Exception) -> dict[str, Any]:
    """The result event for a model that does not load; the script itself has not failed."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return {"loads": False, "load_error": lines[0][:300]}
