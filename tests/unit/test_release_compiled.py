"""Compiled modules that releases share: one that a power cut tore ends no release."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.release.supervisor.become import cannot_start
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.store import replace_link

RELEASE = Digest.of(b"a release")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A device whose agent imports one module, and has been started once."""
    root = Root(tmp_path / "root")
    root.create()
    release = root.release(RELEASE)
    for tree in layout.release_trees(release):
        Path(tree).mkdir(parents=True)
    package = release / layout.AGENT / "edgekit"
    (package / "agent").mkdir(parents=True)
    for module in ("__init__", "agent/__init__", "work"):
        (package / f"{module}.py").write_text("WORD = 'here'\n")
    (package / "agent" / "__main__.py").write_text("import edgekit.work\n")
    replace_link(root.current, str(layout.release(RELEASE)))
    assert cannot_start(root) == ""
    return root


def torn(root: Root) -> Path:
    """Its head is on the disk, and what follows is nothing: as after a power cut."""
    (path,) = root.compiled.rglob("work.*.pyc")
    path.write_bytes(path.read_bytes()[:16] + bytes(64))
    return path


def test_a_torn_module_is_compiled_again(root: Root) -> None:
    path = torn(root)
    assert cannot_start(root) == ""
    assert path.read_bytes()[16:] != bytes(64)


def test_without_that_it_would_end_the_release(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    torn(root)
    monkeypatch.setattr(Root, "forget_compiled", lambda _: None)
    assert "work" in cannot_start(root) or "marshal" in cannot_start(root)
