"""Pictures through the worker on a tiny SmolVLM, against transformers' own class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

from edgekit.agent.serve.pipe import Cancel, Refused
from edgekit.builder.tools.host import HostToolchain
from tests.building import silent
from tests.harness.seeing import Seeing, Turns, eyes_of, seeing
from tests.photos import SHAPES, drawn, encoded, png
from tests.pictured import torch_says

pytestmark = pytest.mark.timeout(300)

TOLERANCE = 1e-4  # of logits that reach from -5 to 5
QUESTION = "What is this?"
FIRST, OTHER = png(400, 400, 1), png(400, 400, 2)
ASKED: dict[str, tuple[int, Turns]] = {
    **{name: (4, [("user", [png(*size), QUESTION])]) for name, size in SHAPES.items()},
    "JPEG": (4, [("user", [encoded(drawn(640, 480), "JPEG"), QUESTION])]),
    "two pictures": (4, [("user", [FIRST, OTHER, "Compare."])]),
    "16 crops": (16, [("user", [png(900, 300), QUESTION])]),
    "one crop": (1, [("user", [png(900, 300), QUESTION])]),
    "behind a text": (4, [("user", ["Look at this:", FIRST, QUESTION])]),
    "text alone": (4, [("user", "What is the capital of France?")]),
    "second turn": (
        4,
        [("user", [FIRST, QUESTION]), ("assistant", "The agent."), ("user", "Which colours?")],
    ),
    "another picture later": (
        4,
        [("user", [FIRST, QUESTION]), ("assistant", "The agent."), ("user", [OTHER, "And this?"])],
    ),
}


@pytest.fixture(scope="module")
def folder(smolvlm: Path) -> Path:
    return smolvlm / "model"


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[Seeing]:
    with seeing(folder) as parent:
        yield parent


@dataclass(frozen=True)
class Said:
    """What transformers says to a prompt: greedy tokens, and the logits of the first."""

    tokens: list[int]
    logits: npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def transformers(
    smolvlm: Path, worker: Seeing, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Said]:
    """What transformers says to the prompts of `ASKED`."""
    cases: dict[str, npt.NDArray[np.generic]] = {}
    for number, (crops, turns) in enumerate(ASKED.values()):
        cases |= worker.case(turns, number, crops)
    python = HostToolchain().ready(silent).python
    work = tmp_path_factory.mktemp("torch")
    said: dict[str, Any] = torch_says(python, smolvlm / "source", cases, work, family="smolvlm")
    return {
        name: Said(said[f"tokens_{number}"].tolist(), said[f"logits_{number}"][-1])
        for number, name in enumerate(ASKED)
    }


def is_as(worker: Seeing, wanted: Said) -> bool:
    """Whether the last answer is transformers'."""
    assert worker.logits is not None
    assert worker.tokens
    assert np.abs(worker.logits - wanted.logits).max() <= TOLERANCE
    return worker.tokens == wanted.tokens[: len(worker.tokens)]


@pytest.mark.parametrize("name", ASKED)
def test_greedy_tokens_are_those_of_transformers(
    name: str, folder: Path, transformers: dict[str, Said]
) -> None:
    crops, turns = ASKED[name]
    with seeing(folder, crops=crops) as parent:
        done = parent.done(turns)
        assert is_as(parent, transformers[name])
        assert len(parent.tokens) == 9 or done.finish_reason == "stop"
    others = (each for each in transformers if each != name)
    wanted = transformers[name].logits
    nearest = min(np.abs(wanted - transformers[each].logits).max() for each in others)
    assert nearest > 100 * TOLERANCE  # what a picture shows counts


def expected_ids(folder: Path, text: str) -> list[int]:
    """The ids of a prompt as the processor has it; -1 for an image token."""
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    image = words.token_to_id("<image>")
    ids = words.encode(text, add_special_tokens=False).ids
    return [-1 if each == image else each for each in ids]


def test_a_prompt_has_the_ids_of_the_processors_text(worker: Seeing, folder: Path) -> None:
    around, rows = "<fake_token_around_image>", "<image>" * 16
    lines = "".join(
        "".join(f"{around}<row_{line}_col_{column}>{rows}" for column in (1, 2)) + "\n"
        for line in (1, 2)
    )
    picture = f"{lines}\n{around}<global-img>{rows}{around}"
    single = f"{around}<global-img>{rows}{around}"
    end = "<end_of_utterance>\nAssistant:"
    for crops, turns, text in (
        (4, [("user", [FIRST, QUESTION])], f"<|im_start|>User:{picture}{QUESTION}{end}"),
        (1, [("user", [FIRST, QUESTION])], f"<|im_start|>User:{single}{QUESTION}{end}"),
        (1, [("user", ["Here: ", FIRST])], f"<|im_start|>User: Here: {single}{end}"),
        (1, [("user", QUESTION)], f"<|im_start|>User: {QUESTION}{end}"),
    ):
        case = worker.case(turns, 0, crops)  # type: ignore[arg-type]  # turns of two kinds
        assert case["ids_0"].tolist() == expected_ids(folder, text)


def test_a_second_turn_computes_the_new_tokens_alone(
    folder: Path, transformers: dict[str, Said]
) -> None:
    with seeing(folder) as parent:
        turns = ASKED["second turn"][1]
        first = parent.done(turns[:1])
        assert parent.decoder.looks == 5
        second = parent.done(turns)
        assert parent.decoder.looks == 0
        assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
        assert is_as(parent, transformers["second turn"])
        later = parent.done(ASKED["another picture later"][1])
        assert parent.decoder.looks == 5
        assert later.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
        assert is_as(parent, transformers["another picture later"])


def test_another_requesters_picture_is_never_used(folder: Path) -> None:
    turns: Turns = [("user", [FIRST, QUESTION])]
    with seeing(folder, slots=2) as parent:
        parent.done(turns, "ann")
        answer = parent.tokens
        other = parent.done(turns, "bob")
        assert parent.decoder.looks == 5
        assert other.usage.prompt_tokens_details.cached_tokens < 10
        assert parent.tokens == answer
        parent.done(turns, "ann")
        assert parent.decoder.looks == 0


def test_a_prompt_is_cancelled_between_two_views(folder: Path) -> None:
    with seeing(folder, crops=16) as parent:

        def cancel(what: str) -> None:
            if what == "look" and parent.decoder.looks == 2:
                parent.pipe.send(Cancel("a/1"))

        parent.decoder.before = cancel
        done = parent.done([("user", [FIRST, QUESTION])])
        assert done.finish_reason == "cancelled"
        assert parent.decoder.work == ["look"] * 3


def test_too_many_tokens_are_refused_before_a_pixel_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seeing(folder, max_length=64) as parent:
        monkeypatch.setattr(parent.eyes, "see", lambda *_: pytest.fail("it was decoded"))
        found = parent.ask([("user", [FIRST, QUESTION])])
        assert isinstance(found, Refused)
        assert (found.code, found.param) == ("context_length_exceeded", "messages")
        counted = eyes_of(folder, 4, parent.tokenizer).tokens(FIRST)
        assert f"{counted} of them for a picture" in found.message


@pytest.mark.parametrize("typed", ["<image>", "<fake_token_around_image>", "<ima", "<row_1_col_1>"])
def test_a_control_token_typed_by_a_user_is_text(worker: Seeing, typed: str) -> None:
    plain = worker.done([("user", [FIRST, QUESTION])])
    with_typed = worker.done([("user", [FIRST, f"{QUESTION} {typed}", "ge>"])])
    more = with_typed.usage.prompt_tokens - plain.usage.prompt_tokens
    assert 0 < more < 40
    alone = worker.done([("user", f"{typed} What is this?")])
    assert worker.decoder.looks == 0
    assert alone.usage.prompt_tokens < 60
