"""Pictures through the worker on a tiny model with Phi-3.5-vision's structure, against torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekit.agent.serve.pipe import Cancel, Done, Refused, Start
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.tools.host import HostToolchain
from tests.building import silent
from tests.harness.seeing import Seeing, Turns, seeing
from tests.photos import SHAPES, drawn, encoded, hostile, png
from tests.pictured import Seeing as PlainLoop
from tests.pictured import Views, features, torch_says

pytestmark = pytest.mark.timeout(300)

TOLERANCE = 1e-4  # of logits that reach from -10 to 10
QUESTION = "What is this?"
FIRST, OTHER = png(400, 400, 1), png(400, 400, 2)
ASKED: dict[str, tuple[int, Turns]] = {
    **{
        name: (4, [("user", [png(*size), QUESTION])]) for name, size in SHAPES.items()
    },
    "JPEG": (4, [("user", [encoded(drawn(640, 480), "JPEG"), QUESTION])]),
    "two pictures": (4, [("user", [FIRST, OTHER, "Compare."])]),
    "16 crops": (16, [("user", [png(900, 300), QUESTION])]),
    "one crop": (1, [("user", [png(900, 300), QUESTION])]),
    "text alone": (4, [("user", "What is the capital of France?")]),
    "second turn": (
        4,
        [("user", [FIRST, QUESTION]), ("assistant", "The agent."), ("user", "Which colours?")],
    ),
    "another picture later": (
        4,
        [("user", [FIRST, QUESTION]), ("assistant", "The agent."), ("user", [OTHER, "And this?"])],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(phi3v: Path) -> Path:
    return phi3v / "model"


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[Seeing]:
    with seeing(folder) as parent:
        yield parent


@dataclass(frozen=True)
class Said:
    """What torch says to a prompt: greedy tokens, and the logits of the first."""

    tokens: list[int]
    logits: npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def torchs(
    phi3v: Path, worker: Seeing, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Said]:
    """What torch says to the prompts of `ASKED`."""
    cases: dict[str, npt.NDArray[np.generic]] = {}
    for number, (crops, turns) in enumerate(ASKED.values()):
        cases |= worker.case(turns, number, crops)
    python = HostToolchain().ready(silent).python
    said: dict[str, Any] = torch_says(
        python, phi3v / "source", cases, tmp_path_factory.mktemp("torch")
    )
    return {
        name: Said(said[f"tokens_{number}"].tolist(), said[f"logits_{number}"][-1])
        for number, name in enumerate(ASKED)
    }


def is_as(worker: Seeing, wanted: Said) -> bool:
    """Whether the last answer is torch's."""
    assert worker.logits is not None
    assert len(worker.tokens) > 3
    assert np.abs(worker.logits - wanted.logits).max() <= TOLERANCE
    return worker.tokens == wanted.tokens[: len(worker.tokens)]


@pytest.mark.parametrize("name", ASKED)
def test_greedy_tokens_are_torchs(name: str, folder: Path, torchs: dict[str, Said]) -> None:
    crops, turns = ASKED[name]
    with seeing(folder, crops=crops) as parent:
        done = parent.done(turns)
        assert is_as(parent, torchs[name])
        assert len(parent.tokens) == 9 or done.finish_reason == "stop"
    others = (each for each in torchs if each != name)
    nearest = min(np.abs(torchs[name].logits - torchs[each].logits).max() for each in others)
    assert nearest > 100 * TOLERANCE  # what a picture shows counts


def test_a_second_turn_about_the_same_picture_computes_the_new_tokens_alone(
    worker: Seeing, torchs: dict[str, Said]
) -> None:
    turns = ASKED["second turn"][1]
    first = worker.done(turns[:1])
    assert worker.decoder.looks == 5 or first.usage.prompt_tokens_details.cached_tokens > 700
    second = worker.done(turns)
    assert worker.decoder.looks == 0
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    computed = second.usage.prompt_tokens - second.usage.prompt_tokens_details.cached_tokens
    assert computed < 40
    assert is_as(worker, torchs["second turn"])


def test_another_picture_later_goes_on_from_the_kept_prefix(
    folder: Path, torchs: dict[str, Said]
) -> None:
    turns = ASKED["another picture later"][1]
    with seeing(folder) as parent:
        first = parent.done(turns[:1])
        assert parent.decoder.looks == 5
        second = parent.done(turns)
        assert parent.decoder.looks == 5  # of the new picture
        assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
        assert is_as(parent, torchs["another picture later"])
        # back to the first turn, with another question
        third = parent.done(ASKED["second turn"][1])
        assert parent.decoder.looks == 0
        assert third.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
        assert is_as(parent, torchs["second turn"])


def test_a_picture_of_the_same_size_is_another_one(folder: Path) -> None:
    with seeing(folder) as parent:
        parent.done([("user", [FIRST, QUESTION])])
        asked = parent.done([("user", [OTHER, QUESTION])])
        assert parent.decoder.looks == 5
        assert asked.usage.prompt_tokens_details.cached_tokens < 10
        kept = parent.tokens
        with seeing(folder) as fresh:
            fresh.done([("user", [OTHER, QUESTION])])
            assert fresh.tokens == kept


def test_another_requesters_picture_is_never_used(folder: Path) -> None:
    """Neither its rows in a slot nor its features: the second one waits as long as the first."""
    turns: Turns = [("system", "Be brief."), ("user", [FIRST, QUESTION])]
    with seeing(folder, slots=2) as parent:
        parent.done(turns, "ann")
        mine = list(parent.decoder.work)
        assert parent.decoder.looks == 5
        answer = parent.tokens
        other = parent.done(turns, "bob")
        assert parent.decoder.looks == 5
        system = len(parent.tokenizer.encode_chat([("system", "Be brief."), ("user", "")]))
        assert other.usage.prompt_tokens_details.cached_tokens <= system
        assert len(parent.decoder.work) >= len(mine) - 1
        assert parent.tokens == answer
        again = parent.done(turns, "ann")
        assert parent.decoder.looks == 0
        assert again.usage.prompt_tokens_details.cached_tokens > 700


def test_features_are_kept_where_the_slot_is_lost(folder: Path) -> None:
    with seeing(folder) as parent:
        parent.done([("user", [FIRST, QUESTION])])
        answer = parent.tokens
        parent.done([("user", "Count from one to ten.")], "bob")  # takes the only slot
        again = parent.done([("user", [FIRST, QUESTION])])
        assert parent.decoder.looks == 0
        assert again.usage.prompt_tokens_details.cached_tokens < 10
        assert parent.tokens == answer


def test_features_without_room_are_computed_again(folder: Path) -> None:
    turns: Turns = [("user", [FIRST, OTHER, png(400, 400, 3), "Compare."])]
    with seeing(folder) as parent:
        parent.done(turns)
        answer = parent.tokens
    with seeing(folder, kept_rows=1) as parent:  # two pictures have room in any case
        for _ in range(2):
            parent.done(turns)
            assert parent.decoder.looks == 15
            assert parent.tokens == answer
            parent.done([("user", "Hello")], "bob")


def test_a_prompt_is_cancelled_between_two_views(folder: Path) -> None:
    with seeing(folder, crops=16) as parent:

        def cancel(what: str) -> None:
            if what == "look" and parent.decoder.looks == 2:
                parent.pipe.send(Cancel("a/1"))

        parent.decoder.before = cancel
        done = parent.done([("user", [FIRST, QUESTION])])
        assert done.finish_reason == "cancelled"
        assert parent.decoder.work == ["look"] * 3
        parent.decoder.before = lambda _: None
        assert parent.done([("user", [FIRST, QUESTION])]).finish_reason in ("length", "stop")
        assert parent.decoder.looks == 17


def test_an_answer_goes_on_between_two_views(folder: Path) -> None:
    with seeing(folder, crops=16, slots=2) as parent:
        turns: Turns = [("user", "Count from one to ten.")]
        parent.pipe.send(parent.start(turns, "b/1", "b", answer_limit=400))
        sent: list[Start] = []

        def look(what: str) -> None:
            if what == "step 0" and not sent:
                sent.append(parent.start([("user", [FIRST, QUESTION])], answer_limit=2))
                parent.pipe.send(sent[0])

        parent.decoder.before = look
        parent.ends(2)
        work = parent.decoder.work
        first = work.index("look")
        last = len(work) - 1 - work[::-1].index("look")
        assert work[first:last].count("look") == 16
        assert sum(each.startswith("step") for each in work[first:last]) >= 10


def test_too_many_tokens_are_refused_before_a_pixel_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seeing(folder, max_length=512) as parent:
        monkeypatch.setattr(parent.eyes, "see", lambda *_: pytest.fail("it was decoded"))
        found = parent.ask([("user", [FIRST, QUESTION])])
        assert isinstance(found, Refused)
        assert (found.code, found.param) == ("context_length_exceeded", "messages")
        assert "757 of them for a picture" in found.message
        found = parent.ask([("user", [FIRST, QUESTION])], prompt_limit=100)
        assert isinstance(found, Refused)
        assert "max_prompt_tokens" in found.message
        assert parent.decoder.work == []


def test_int4_and_int8_answer_as_their_graphs_one_after_the_other(
    phi3v: Path, tmp_path: Path
) -> None:
    request = BuildRequest(
        str(phi3v / "source"), tmp_path / "int4", precision="int4", vision_precision="int8",
        gate=None,
    )  # fmt: skip
    model = build(request, silent).out
    plain = PlainLoop(model)
    for turns in (ASKED["two pictures"][1], ASKED["text alone"][1]):
        with seeing(model) as parent:
            case: dict[str, Any] = parent.case(turns, 0, 4)
            rows = None
            if "pixels_0" in case:
                rows = features(plain.vision, Views(case["pixels_0"], case["sizes_0"]))
            logits, tokens = plain.answer(case["ids_0"].tolist(), rows, 9)
            parent.done(turns)
            assert parent.logits is not None
            assert np.abs(parent.logits - logits[-1]).max() <= TOLERANCE
            assert parent.tokens == tokens[: len(parent.tokens)]
            assert len(parent.tokens) > 3


def test_a_slot_ends_at_longropes_border(folder: Path) -> None:
    with seeing(folder, crops=16, max_length=8192) as parent:
        assert parent.decoder.limits.max_length == 4096
        found = parent.ask([("user", [FIRST, OTHER, "Compare."])])
        assert isinstance(found, Refused)
        assert found.code == "context_length_exceeded"
        assert "5018 of them for pictures; the context of 4096" in found.message


def test_hostile_pictures_leave_the_worker_well(worker: Seeing) -> None:
    turns: Turns = [("user", [FIRST, QUESTION])]
    worker.done(turns)
    answer = worker.tokens
    for name, data, says in hostile():
        found = worker.ask([("user", [data, QUESTION])])
        assert isinstance(found, Refused), name
        assert (found.code, found.param) == ("invalid_request", "messages")
        assert says in found.message, name
        assert worker.decoder.work == [], name
    worker.done(turns)
    assert worker.tokens == answer


def test_a_tag_typed_by_a_user_is_text(worker: Seeing) -> None:
    typed = worker.done([("user", [FIRST, f"{QUESTION} <|image_1|>"])])
    plain = worker.done([("user", [FIRST, QUESTION])])
    more = typed.usage.prompt_tokens - plain.usage.prompt_tokens
    assert 0 < more < 20
    alone = worker.done([("user", "<|image_1|>\nWhat is this?")])
    assert worker.decoder.looks == 0
    assert alone.usage.prompt_tokens < 60


def test_no_sample_is_made_of_a_prompt_with_a_picture(worker: Seeing) -> None:
    worker.done([("user", [FIRST, QUESTION])], sample=True)
    worker.pipe.send(worker.start([("user", "Hello")], sample=True, answer_limit=2))
    kinds = []
    while "EndedPrompt" not in kinds:
        kinds.append(type(worker.pipe.receive()).__name__)
    assert kinds.count("Done") == 1  # the sample is of the second prompt


def test_a_penalty_counts_the_tokens_of_the_text(worker: Seeing) -> None:
    turns: Turns = [("user", [FIRST, QUESTION])]
    start: Start = worker.start(turns)
    sampling = type(start.sampling)(repetition_penalty=1.3)
    worker.pipe.send(Start(start.key, "a", turns, sampling, [], 5, 1e12))
    (found,) = worker.ends(1)
    assert isinstance(found, Done)
    assert found.usage.completion_tokens == 5
