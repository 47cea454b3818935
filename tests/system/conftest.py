"""Fixtures of the build's tests: the toolchain's interpreter, and tiny models made with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.builder.tools.host import HostToolchain
from tests import warm
from tests.building import make_tiny, silent


@pytest.fixture(scope="session", autouse=True)
def _warm_toolchain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Builds of these tests find torch imported; those with `AS_INSTALLED` do not."""
    with pytest.MonkeyPatch.context() as patch, warm.toolchain(tmp_path_factory.mktemp("w")) as it:
        patch.setenv("XDG_CACHE_HOME", str(it))
        yield


@pytest.fixture(scope="session")
def python(_warm_toolchain: None) -> str:
    """The toolchain's interpreter; installs it on a machine that does not have it yet."""
    return str(HostToolchain().ready(silent).python)


@pytest.fixture(scope="session")
def qwen2(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(python, "qwen2", tmp_path_factory.mktemp("tiny") / "tiny-qwen2")
