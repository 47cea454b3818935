"""Stop strings and slices, for any text and any cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.agent.serve.worker.answer.text import StopFilter
from edgekit.agent.serve.worker.scheduler import slice_length

SETTINGS = settings(max_examples=500, deadline=None, derandomize=True, database=None)

letters = st.text("abé", max_size=12)
stop_lists = st.lists(st.text("abé", min_size=1, max_size=4), max_size=4)


def shown(text: str, stops: list[str]) -> tuple[str, bool]:
    """What may be shown: all up to the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@SETTINGS
@given(chunks=st.lists(letters, max_size=8), stops=stop_lists)
def test_the_text_up_to_the_first_stop_string_comes_out_however_it_is_cut(
    chunks: list[str], stops: list[str]
) -> None:
    expected, stopped = shown("".join(chunks), stops)
    filter_ = StopFilter(stops)
    out = ""
    for chunk in chunks:
        out += filter_.push(chunk)
        # no part of a stop string, not even for a moment
        assert expected.startswith(out)
    assert filter_.stopped == stopped
    assert out + filter_.flush() == expected
    assert filter_.flush() == ""


@SETTINGS
@given(text=letters, stops=stop_lists)
def test_no_more_is_held_than_could_become_a_stop_string(text: str, stops: list[str]) -> None:
    filter_ = StopFilter(stops)
    out = filter_.push(text)
    if not filter_.stopped:
        held = text[len(out) :]
        assert not held or any(stop.startswith(held) for stop in stops)


def slices(tokens: int, largest: int, smallest: int = 2) -> list[int]:
    """All slices of a prompt."""
    cut = []
    while tokens:
        cut.append(slice_length(tokens, largest, smallest))
        tokens -= cut[-1]
    return cut


@SETTINGS
@given(tokens=st.integers(0, 300), largest=st.integers(1, 80), smallest=st.integers(1, 5))
def test_slices_cover_the_prompt_balanced_and_in_bounds(
    tokens: int, largest: int, smallest: int
) -> None:
    cut = slices(tokens, largest, smallest)
    assert sum(cut) == tokens
    if not cut:
        return
    assert max(cut) - min(cut) <= 1
    assert min(cut) >= min(smallest, tokens)
    if largest >= 2 * smallest - 1:
        assert max(cut) <= largest
        assert len(cut) == -(-tokens // largest)  # no more slices than needed


def test_where_both_bounds_cannot_hold_no_slice_is_too_small() -> None:
    assert slices(3, 2) == [3]
    assert slices(5, 2) == [3, 2]
    assert slices(4, 2) == [2, 2]
    assert slices(1, 64) == [1]
    assert slices(0, 64) == []
    assert slices(65, 64) == [33, 32]
