"""The arithmetic of the comparison that is run by hand on a GPU."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from benchmarks import cuda


def test_equal_logits_do_not_differ() -> None:
    rows = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    found = cuda.differences([rows, rows[:2]], [rows.copy(), rows[:2].copy()])
    assert found == {"positions": 7, "top1": 1.0, "kl_mean": 0.0, "kl_p99": 0.0, "largest": 0.0}


def test_differences_are_over_all_positions_of_all_texts() -> None:
    half, most = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    found = cuda.differences([half, most], [most, most])
    assert found["kl_mean"] == pytest.approx((np.log(0.5 / 0.25) + np.log(0.5 / 0.75)) / 4)
    assert found["top1"] == 0.5
    assert found["largest"] == pytest.approx(np.log(2))
    # a constant beside all logits of a row is no divergence
    assert cuda.differences([half + 3], [half])["kl_mean"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("a", "b", "count"), [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([], [1], 0)]
)
def test_answers_are_alike_until_the_first_other_token(
    a: list[int], b: list[int], count: int
) -> None:
    assert cuda.alike(a, b) == count


def test_folders_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name, self.rounds = name, 0

        def speeds(self, tokens: list[int]) -> tuple[float, float]:
            assert tokens == [1, 2]
            order.append(self.name)
            self.rounds += 1
            return (1000.0 if self.rounds == 1 else 10.0, float(self.rounds))

    folders = cast("dict[str, cuda.Folder]", {"a": Fake("a"), "b": Fake("b")})
    found = cuda.timed(folders, [1, 2])
    assert order == ["a", "b"] * (cuda.ROUNDS + 1)
    assert found["b"]["read_range"] == [10.0, 10.0]
    assert found["b"]["written_per_second"] == cuda.ROUNDS / 2 + 1.5
