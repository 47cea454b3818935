"""Tiny Phi-3.5-vision checkpoints, their two graphs, and what torch makes of the same numbers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgekit.builder.tools.process import INSIDE, OFFLINE, clean_environment
from tests.building import run_script

SIDE, CELLS = 336, 12
LAYOUTS: dict[str, tuple[tuple[int, int], ...]] = {
    "square": ((4, 4),),
    "wide": ((2, 6),),
    "tall": ((6, 2),),
    "one crop": ((1, 1),),
    "four crops": ((2, 2),),
    "three pictures": ((1, 4), (4, 1), (2, 2)),
}
"""Name -> crops of each picture, in height and width."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Views:
    """What the vision graph takes.

    Attributes:
        pixels: [pictures, views, 3, 336, 336]; views that a picture does not have are zero.
        sizes: [pictures, 2], in pixels.
    """

    pixels: Floats
    sizes: Integers

    @property
    def tokens(self) -> int:
        """Number of rows."""
        return sum(rows(h // SIDE, w // SIDE) for h, w in self.sizes.tolist())


@dataclass(frozen=True)
class LoneViews:
    """What the vision graph of SmolVLM takes: views that know nothing of each other.

    Attributes:
        pixels: [views, 3, side, side].
    """

    pixels: Floats
    rows_of_each: int = 16

    @property
    def tokens(self) -> int:
        """Number of rows."""
        return len(self.pixels) * self.rows_of_each


Shown = Views | LoneViews


def lone_noise(count: int, seed: int = 0, side: int = 128) -> LoneViews:
    """Pixels by chance, about as wide as SmolVLM's normalised ones."""
    random = np.random.default_rng(seed)
    return LoneViews(0.5 * random.standard_normal((count, 3, side, side), np.float32))


def arrays_of(views: Shown, number: int) -> dict[str, npt.NDArray[np.generic]]:
    """The views as a case of their family's reference."""
    if isinstance(views, LoneViews):
        return {f"pixels_{number}": views.pixels}
    return {f"pixels_{number}": views.pixels, f"sizes_{number}": views.sizes}


def rows(height: int, width: int) -> int:
    """Tokens of a picture of so many crops."""
    return (height * width + 1) * CELLS**2 + 1 + (height + 1) * CELLS


def noise(crops: tuple[tuple[int, int], ...], seed: int = 0) -> Views:
    """Pixels by chance, about as wide as CLIP's normalised ones."""
    random = np.random.default_rng(seed)
    most = 1 + max(h * w for h, w in crops)
    pixels = np.zeros((len(crops), most, 3, SIDE, SIDE), np.float32)
    for picture, (height, width) in zip(pixels, crops, strict=True):
        used = picture[: 1 + height * width]
        used[:] = random.standard_normal(used.shape, np.float32)
    return Views(pixels, SIDE * np.array(crops, np.int64))


def ids_of(views: Shown | None) -> list[int]:
    """A question after the rows of pictures: words by their numbers."""
    rows = [-1] * views.tokens if views else []
    return [3, 10, *rows, 10, 40, 41, 42, 2, 10, 11, 10]  # none is an image token


def checkpoint(python: str | Path, folder: Path, *more: str, family: str = "phi3v") -> Path:
    """A checkpoint of `make_phi3v.py` or `make_smolvlm.py`."""
    run_script(python, f"models/make_{family}.py", folder, *more)
    return folder


def graphs(
    python: str | Path, source: Path, out: Path, precision: str = "fp32"
) -> subprocess.CompletedProcess[str]:
    """Write `vision.onnx` and `embedding.onnx` as a build does."""
    return subprocess.run(
        [
            python, "-E", "-s", INSIDE / "picture_graphs.py", "-i", source, "-o", out,
            "--vision-precision", precision, "--report", out.with_suffix(".events"),
        ],
        capture_output=True, text=True, timeout=120, env=clean_environment(OFFLINE), check=False,
    )  # fmt: skip


def session(path: Path) -> onnxruntime.InferenceSession:
    """A graph, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def features(vision: onnxruntime.InferenceSession, views: Shown) -> Floats:
    """Rows of the vision graph."""
    if isinstance(views, LoneViews):
        return features_of_views(vision, views.pixels)
    found: Floats = vision.run(None, {"pixel_values": views.pixels, "image_sizes": views.sizes})[0]
    return found


def features_of_views(vision: onnxruntime.InferenceSession, views: Floats) -> Floats:
    """Rows of the vision graph of a family whose views are read one by one."""
    found: Floats = vision.run(None, {"pixel_values": views[None]})[0]
    return found


def one_by_one(vision: onnxruntime.InferenceSession, views: Shown) -> Floats:
    """Each view alone, put together in the model's order."""
    if isinstance(views, LoneViews):
        return np.concatenate([features_of_views(vision, view[None]) for view in views.pixels])
    made = []
    for pixels, (height, width) in zip(views.pixels, (views.sizes // 336).tolist(), strict=True):
        alone = [
            features(vision, Views(view[None, None], np.zeros((1, 2), np.int64)))
            for view in pixels[: 1 + height * width]
        ]
        assert {len(view) for view in alone} == {157}
        cells = [view[1:].reshape(CELLS, CELLS + 1, -1) for view in alone]
        sub = cells[0][0, CELLS]
        for row in range(height * CELLS):
            for column in range(width):
                made += list(cells[1 + row // CELLS * width + column][row % CELLS, :CELLS])
            made.append(sub)
        made += list(alone[0])
    return np.stack(made)


def torch_says(
    python: str | Path,
    source: Path,
    cases: dict[str, npt.NDArray[np.generic]],
    work: Path,
    text: Path | None = None,
    family: str = "phi3v",
) -> dict[str, npt.NDArray[np.generic]]:
    """What the reference of a family makes of its cases (`models/FAMILY_reference.py`).

    Args:
        text: a folder of `dequantised_text.py`, whose text weights are taken.
    """
    asked, said = work / "cases.npz", work / "said.npz"
    np.savez(asked, **cases)  # type: ignore[arg-type]  # arrays by name
    more = ("--text", text) if text else ()
    run_script(python, f"models/{family}_reference.py", source, asked, said, *more)
    with np.load(said) as found:
        return dict(found)


def change_tensor(
    source: Path, name: str, change: Callable[[npt.NDArray[np.uint16]], None]
) -> None:
    """Change a BF16 tensor of a checkpoint in its file.

    Args:
        change: gets the tensor's elements as the upper halves of float32, to change in place.
    """
    index = json.loads((source / "model.safetensors.index.json").read_text())
    file = source / index["weight_map"][name]
    raw = bytearray(file.read_bytes())
    size = int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8 : 8 + size])[name]["data_offsets"]
    change(np.frombuffer(memoryview(raw)[8 + size + begin : 8 + size + end], np.uint16))
    file.write_bytes(raw)


class Seeing:
    """A built model that takes pictures, run graph by graph as the agent does.

    Args:
        folder: of `edgekit build`.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "genai_config.json").read_text())["model"]
        self._decoder = config["decoder"]
        self.vision, self._embedding, self._text = (
            session(folder / config[part]["filename"])
            for part in ("vision", "embedding", "decoder")
        )
        self._names = [
            f"{layer}.{part}"
            for layer in range(self._decoder["num_hidden_layers"])
            for part in ("key", "value")
        ]

    def answer(self, ids: list[int], rows: Floats | None, count: int) -> tuple[Floats, list[int]]:
        """The logits of all positions of `ids`, and `count` greedy tokens.

        Args:
            ids: below 0 for the rows of pictures.
            rows: of all pictures, one after the other.
        """
        width = self._embedding.get_outputs()[0].shape[2]
        none = np.zeros((0, width), np.float32)
        heads, size = self._decoder["num_key_value_heads"], self._decoder["head_size"]
        cache = [np.zeros((1, heads, 0, size), np.float32) for _ in self._names]
        read, tokens = None, list[int]()
        for step in range(max(count, 1)):
            given = {
                "input_ids": np.array([ids if step == 0 else tokens[-1:]], np.int64),
                "image_features": rows if step == 0 and rows is not None else none,
            }
            embedded = self._embedding.run(None, given)[0]
            length = cache[0].shape[2] + embedded.shape[1]
            feed = {"inputs_embeds": embedded, "attention_mask": np.ones((1, length), np.int64)}
            feed |= {f"past_key_values.{n}": c for n, c in zip(self._names, cache, strict=True)}
            logits, *cache = self._text.run(
                ["logits", *(f"present.{name}" for name in self._names)], feed
            )
            read = logits[0] if read is None else read
            tokens.append(int(logits[0, -1].argmax()))
        assert read is not None
        return read, tokens[:count]
