"""The format of a reference on disk, and the divergence of a model's logits from it. numpy only.

A reference is a folder: `reference.json` with the texts, and one `logits-NNN.npy` per sequence with
the scored rows, as float16 of logit minus the row's maximum. Half precision is exact enough: for a
token of probability e^-x its relative error of 2^-11 is an error of x/2000 in the logit, which is
negligible for likely tokens and has no weight for unlikely ones.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

ROWS = 64  # at a time: bounds the memory for a vocabulary of 262,144 to about 200 MB
NAME = "reference.json"


@dataclass
class Sequence:
    """One text: its tokens; logits at positions `first` to the last but one are scored."""

    id: str
    tokens: list[int]
    first: int

    @property
    def targets(self) -> list[int]:
        """The tokens that follow the scored positions."""
        return self.tokens[self.first + 1 :]


@dataclass
class Texts:
    """The texts that a model reads and the prompts that it continues.

    Attributes:
        sequences: texts to read, teacher-forced.
        greedy_prompts: prompts to continue greedily.
        greedy_tokens: most tokens per continuation.
        reference_greedy: the reference's own continuations; None where it was too large for that.
        stops: the reference's end-of-text tokens.
        long: the text of `longtext.py`; None where the model's context is too short for it.
    """

    sequences: list[Sequence]
    greedy_prompts: list[list[int]] = field(default_factory=list)
    greedy_tokens: int = 0
    reference_greedy: list[list[int]] | None = None
    stops: list[int] = field(default_factory=list)
    long: Sequence | None = None

    @property
    def every(self) -> list[Sequence]:
        """All texts with logits, in the order of their numbers: the long one is the last."""
        return [*self.sequences, *([self.long] if self.long else [])]

    def save(self, path: Path) -> None:
        """Write the texts as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Texts":
        """Read a file of `save`."""
        values = json.loads(path.read_text(encoding="utf-8"))
        values["sequences"] = [Sequence(**s) for s in values["sequences"]]
        values["long"] = Sequence(**values["long"]) if values["long"] else None
        return cls(**values)


def save_logits(folder: Path, number: int, logits: np.ndarray) -> None:
    """Save the scored rows of one sequence, shape (positions, vocabulary)."""
    small = np.empty(logits.shape, np.float16)
    for at in range(0, len(logits), ROWS):
        rows = np.asarray(logits[at : at + ROWS], np.float32)
        shifted = rows - rows.max(axis=1, keepdims=True)
        small[at : at + ROWS] = np.maximum(shifted, -60_000)  # float16 ends at 65,504
    np.save(folder / f"logits-{number:03}.npy", small)


def load_logits(folder: Path, number: int) -> np.ndarray:
    """The rows that `save_logits` wrote, mapped."""
    return np.load(folder / f"logits-{number:03}.npy", mmap_mode="r")


@dataclass
class Divergence:
    """Per position: KL divergence in nats, agreement of the best token, both log-likelihoods."""

    kl: np.ndarray
    same: np.ndarray
    reference_log: np.ndarray
    model_log: np.ndarray


def compare(reference: np.ndarray, model: np.ndarray, targets: list[int]) -> Divergence:
    """KL(reference ‖ model) at each row, over the common vocabulary.

    A padded head is longer than the tokenizer's vocabulary; its additional logits are left out.
    """
    common = min(reference.shape[1], model.shape[1])
    parts: list[tuple[np.ndarray, ...]] = []
    for at in range(0, len(targets), ROWS):
        p = _log_softmax(reference[at : at + ROWS, :common])
        q = _log_softmax(model[at : at + ROWS, :common])
        rows, wanted = np.arange(len(p)), targets[at : at + ROWS]
        same = p.argmax(axis=1) == q.argmax(axis=1)
        said, heard = p[rows, wanted], q[rows, wanted]
        np.subtract(p, q, out=q)
        kl = np.einsum("ij,ij->i", np.exp(p, out=p), q)
        parts.append((np.where(np.isnan(kl), kl, np.maximum(kl, 0)), same, said, heard))
    return Divergence(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _log_softmax(rows: np.ndarray) -> np.ndarray:
    values = rows.astype(np.float32)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values
