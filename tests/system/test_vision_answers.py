"""Greedy answers after pictures are torch's, in FP32 and in INT4 on the dequantised weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.show.vision_layouts import BUILDS, FAMILIES, compared


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_after_pictures_are_those_of_torch(
    family: str, python: str, tmp_path: Path
) -> None:
    answers = ("one crop", "two pictures", "tall", "text")
    found = compared(Path(python), tmp_path, answers, ("one crop", "three pictures"), family)
    assert found.different == []
    assert (found.features, found.answers) == (4, len(BUILDS) * len(answers))
    assert found.worst_feature <= 1e-4
    assert found.worst_logit <= 1e-3
