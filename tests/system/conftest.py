"""Fixtures of the build's tests: the toolchain's interpreter, and tiny models made with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.builder.tools.host import HostToolchain
from tests.building import make_tiny, silent


@pytest.fixture(scope="session")
def python() -> str:
    """The toolchain's interpreter; installs it on a machine that does not have it yet."""
    return str(HostToolchain().ready(silent).python)


@pytest.fixture(scope="session")
def qwen2(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(python, "qwen2", tmp_path_factory.mktemp("tiny") / "tiny-qwen2")
