"""The arithmetic of the time that the gate announces, and the long text. No model, no clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edgekit.builder.gate.effort import LONG_TOKENS_OF_LARGE, Effort, amounts
from edgekit.builder.inside.gate.duration import (
    Amounts,
    Speeds,
    cause_seconds,
    guess,
    now,
    pace,
    parts,
    text_seconds,
)
from edgekit.builder.inside.gate.longtext import LEAST, long_text, long_tokens, pieces

SMOLLM2 = Amounts(parameters=134_515_008, vocabulary=49_152, hidden=576, layers=30)
IDLE = Speeds(load=5.0, read=0.0025, step=0.13)


class Words:
    """A tokenizer: each word is a token, after one that begins the text."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        known: dict[str, int] = {}
        return {"input_ids": [0, *(known.setdefault(w, len(known) + 1) for w in text.split())]}


def test_a_machine_half_as_fast_takes_twice_as_long() -> None:
    idle = parts(SMOLLM2, IDLE)
    busy = parts(SMOLLM2, Speeds(load=10.0, read=0.005, step=0.26))
    assert busy.reference == pytest.approx(2 * idle.reference)
    assert busy.total == pytest.approx(2 * idle.total)


def test_the_total_is_the_sum_of_the_scripts() -> None:
    each = parts(SMOLLM2, IDLE)
    assert each.total == each.reference + each.model + each.layers + each.text
    assert each.text == 0  # the source itself writes
    assert parts(replace(SMOLLM2, by_layer=False), IDLE).layers == 0


@pytest.mark.parametrize("more", ["texts", "tokens", "greedy_tokens", "long"])
def test_more_work_takes_longer(more: str) -> None:
    doubled = replace(SMOLLM2, **{more: 2 * getattr(SMOLLM2, more)})
    assert parts(doubled, IDLE).total > parts(SMOLLM2, IDLE).total


def test_a_source_that_only_reads_has_its_text_written_by_the_model() -> None:
    reads = parts(SMOLLM2, Speeds(load=5.0, read=0.0025, step=0.0, single=0.05))
    assert reads.text > 16 * 80 * 0.05 / 2
    assert reads.layers == 0
    assert reads.reference < parts(SMOLLM2, IDLE).reference


def test_speeds_of_another_day_follow_the_texts_that_are_read_now() -> None:
    seconds = 3 * text_seconds(SMOLLM2, IDLE, 300, 200)
    today = now(SMOLLM2, IDLE, seconds, 300, 200)
    assert (today.load, today.read, today.step) == pytest.approx(
        (3 * IDLE.load, 3 * IDLE.read, 3 * IDLE.step)
    )
    assert parts(SMOLLM2, today).total == pytest.approx(3 * parts(SMOLLM2, IDLE).total)


def test_a_plan_guesses_what_was_measured() -> None:
    idle = guess(SMOLLM2, 2, writes=True)
    assert pace(SMOLLM2, idle) == 1
    # 15 s and 4 s for the model, and 14 s for the layers, as the scripts' own clocks said
    each = parts(SMOLLM2, idle)
    assert each.layers == pytest.approx(14, rel=0.25)
    assert each.model == pytest.approx(19, rel=0.25)
    larger = replace(SMOLLM2, parameters=2 * SMOLLM2.parameters)
    assert parts(larger, guess(larger, 2, writes=True)).total > 1.5 * each.total
    assert guess(SMOLLM2, 2, writes=False).step == 0


def test_the_search_for_a_cause_is_announced_apart() -> None:
    assert 0 < cause_seconds(SMOLLM2, IDLE) < parts(SMOLLM2, IDLE).total


def test_the_work_is_that_of_the_source(tmp_path: Path) -> None:
    config = {"text_config": {"vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 2}}
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(config))
    small = amounts(tmp_path, 1_000_000, Effort(prompts=3, long=500), by_layer=True)
    assert small == Amounts(
        parameters=1_000_000, vocabulary=300, hidden=8, layers=2, texts=3, long=500
    )
    large = amounts(tmp_path, 4_000_000_000, Effort(), by_layer=False)
    assert (large.long, large.by_layer) == (LONG_TOKENS_OF_LARGE, False)


def test_the_long_text_repeats_what_stands_beyond_every_small_window() -> None:
    made = long_tokens(Words(), 640)
    assert made is not None
    tokens, first = made
    assert len(tokens) == 640
    behind = 528
    assert tokens[640 - 100 :] == tokens[640 - 100 - behind : 640 - behind]
    assert 640 - 100 < first < 640 - 90
    assert long_text(80) == long_text(80)
    assert len(set(long_text(80).splitlines())) == 81  # no line can be guessed from another


@pytest.mark.parametrize("most", [LEAST, 100, LONG_TOKENS_OF_LARGE, 640])
def test_the_pieces_are_the_whole_text_and_end_in_single_tokens(most: int) -> None:
    lengths = pieces(most - 1)
    assert sum(lengths) == most - 1
    assert min(lengths) == 1
    assert lengths[0] < most / 2  # most of it comes through the cache
    assert lengths[-8:] == [1] * 8


def test_a_context_that_is_too_short_has_no_long_text() -> None:
    assert long_tokens(Words(), LEAST - 1) is None
