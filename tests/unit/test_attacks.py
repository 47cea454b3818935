"""Each attack of the table is refused with exit code 4, and leaves ROOT as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import attacks
from tests.attacked import BY_PROCESS, GOOD, NEXT, make_device


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_device(tmp_path_factory.mktemp("attacks") / "root").root.path


@pytest.mark.parametrize("name", attacks.all_attacks())
def test_it_is_refused_and_the_device_is_untouched(
    template: Path, tmp_path: Path, name: str
) -> None:
    refused, untouched, said = attacks.run(name, template, tmp_path)
    assert refused, said
    assert untouched, said


def test_the_same_device_takes_what_is_signed(template: Path, tmp_path: Path) -> None:
    """None of the refusals comes from the table itself."""
    with attacks.attacked(template, tmp_path) as device:
        device.push(NEXT, GOOD + 1)
        code, answer = device.verb("stage", NEXT.digest)
        assert code == 0, answer


def test_the_named_sample_runs_as_processes() -> None:
    assert set(BY_PROCESS) <= attacks.all_attacks().keys()
