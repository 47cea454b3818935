"""The real sample of the crash matrix: system calls that fail, and processes killed at one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import real


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> real.Device:
    return real.prepare(tmp_path_factory.mktemp("template") / "root")


@pytest.mark.parametrize("case", real.CASES, ids=lambda case: case.name)
def test_a_real_process_that_is_cut_short_leaves_a_good_release_and_a_retry_converges(
    case: real.RealCase, template: real.Device, tmp_path: Path
) -> None:
    real.run(template, tmp_path / "root", case)
