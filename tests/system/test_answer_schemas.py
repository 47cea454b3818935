"""Schemas with a real model's tokens: by noise, by the model, and bad ones beside another answer.

`python -m tests.show schemas` is the long form, with JSON Schema's own suite.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.agent.serve.pipe import Done
from edgekit.core.chat.constraint.constraint import Constraint
from tests.harness.random_model import random_model
from tests.harness.worker_process import ready_worker
from tests.models.answer_schemas import SCHEMAS
from tests.models.hostile_formats import REFUSED
from tests.show.schemas import Tally, answered, asked_at_random, pauses

pytestmark = pytest.mark.timeout(300)
LONGEST_PAUSE_MS = 5_000  # on a busy machine; the token table, made once, is most of it
SOME = ("nested", "enum", "number", "pattern", "unicode", "union")


def test_whatever_the_model_prefers_a_whole_answer_is_valid(smollm2: Path) -> None:
    tally = Tally()
    with random_model(smollm2, vocabulary=49_152) as model:
        for name, schema in SCHEMAS.items():
            asked_at_random(model, name, schema, 2, tally)
    assert tally.invalid == []
    assert (tally.schemas, tally.refused, tally.unchecked) == (len(SCHEMAS), {}, 0)
    assert tally.valid >= 2 * len(SCHEMAS) - 4  # noise may be cut


def test_a_schema_that_says_nothing_of_more_is_valid_too(smollm2: Path) -> None:
    tally = Tally()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    with random_model(smollm2, vocabulary=49_152) as model:
        asked_at_random(model, "open", schema, 10, tally)
        digits = model.answer(Constraint("regex", r"\d{3}-[äöü]{2}"), 50)
    assert (tally.invalid, tally.schemas) == ([], 1)
    assert isinstance(digits, Done)
    assert len(digits.text) == 6


@pytest.mark.parametrize("batching", [False, True])
def test_the_real_model_answers_to_schemas(smollm2: Path, batching: bool) -> None:
    tally = Tally()
    with ready_worker(smollm2, slots=2, batching=batching) as worker:
        for name in SOME:
            tally.add(SCHEMAS[name], answered(worker, SCHEMAS[name], 1), name)
    assert tally.invalid == []
    assert tally.valid == len(SOME)


def test_bad_formats_are_refused_and_another_answer_goes_on(smollm2: Path) -> None:
    with ready_worker(smollm2, slots=2) as worker:
        found = pauses(worker, tokens=30)
        print(found)
        whole = answered(worker, SCHEMAS["person"], 1)
        assert worker.peak_mb() < 1500
    assert found.wrong == []
    assert found.refused >= len(REFUSED)
    assert found.placed >= len(REFUSED) - 2  # a bomb may have no place
    assert found.beside_ms < LONGEST_PAUSE_MS
    assert whole.finish_reason == "stop"
