"""The format of the pictures' reference on disk: `pictures.json`, and an `.npz` for each picture.

An `.npz` has `views` and `features` of a picture (of the reference), `swapped` (the rows that the
reference says of the same text after another picture, or no rows) and its logits lie in
`logits-NNN.npy` as those of texts do.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

NAME = "pictures.json"


@dataclass
class Scene:
    """One picture with a question and a fixed answer.

    Attributes:
        png: a small picture, as the text of a `data:` URL.
        height, width: in crops.
        tokens: of the whole text; -1 for each row of the picture.
        first: position whose logits foretell the answer's first token.
        other: number of the picture that it is swapped with; -1 where it is not.
    """

    png: str
    question: str
    answer: str
    height: int
    width: int
    tokens: list[int]
    first: int
    other: int = -1

    @property
    def targets(self) -> list[int]:
        """The answer's tokens."""
        return self.tokens[self.first + 1 :]


def save(folder: Path, scenes: list[Scene]) -> None:
    """Write `pictures.json`."""
    text = json.dumps([asdict(scene) for scene in scenes])
    (folder / NAME).write_text(text, encoding="utf-8")


def load(folder: Path) -> list[Scene]:
    """Read a file of `save`."""
    return [Scene(**each) for each in json.loads((folder / NAME).read_text(encoding="utf-8"))]


def save_arrays(folder: Path, number: int, **arrays: np.ndarray) -> None:
    """Write the arrays of one picture."""
    np.savez(folder / f"picture-{number:03}.npz", **arrays)


def load_arrays(folder: Path, number: int) -> dict[str, np.ndarray]:
    """Read them."""
    with np.load(folder / f"picture-{number:03}.npz") as found:
        return dict(found)
