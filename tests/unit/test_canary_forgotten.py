"""Kept prompts go where no agent removes them: at a stop, and before a release that knows none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.release.stopped import stop
from edgekit.agent.release.supervisor.become import become
from edgekit.agent.release.supervisor.detached import Detached
from edgekit.agent.release.supervisor.watch import Watch
from edgekit.agent.serve.loop.samplestore import SampleStore
from edgekit.core.config import known_settings
from edgekit.core.digest import Digest
from edgekit.core.manifest import SETTINGS, encode, parse_manifest
from edgekit.core.quality import Sample
from edgekit.errors import EdgekitError
from tests.harness.signing import bundle


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root(tmp_path)
    made.create()
    return made


@pytest.fixture
def kept(root: Root) -> Iterator[Path]:
    """What an agent that was killed has left, also while it wrote."""
    store = SampleStore(root.path, 5)
    store.add("sha256:old", Sample([1, 2], 1, [], 1, loops=False), store.clock())
    store.path.with_suffix(".new").write_bytes(store.path.read_bytes())
    yield store.path
    store.remove()


def current(root: Root, settings: frozenset[str] | None) -> Digest:
    """Make a release current whose agent knows these settings."""
    manifest = parse_manifest(bundle("1").data)
    if settings is not None:
        told = {SETTINGS: ",".join(sorted(settings))}
        agent = msgspec.structs.replace(manifest.agent, annotations=told)
        others = [each for each in manifest.layers if each != manifest.agent]
        manifest = msgspec.structs.replace(manifest, layers=[agent, *others])
    digest = root.store.put(encode(manifest))
    root.current.symlink_to(f"releases/{digest.hex}")
    return digest


def gone(kept: Path) -> bool:
    return not kept.exists() and not kept.with_suffix(".new").exists()


def test_a_stop_removes_what_a_killed_agent_has_left(root: Root, kept: Path) -> None:
    stop(root, Detached(root))
    assert gone(kept)


def test_a_supervisor_that_ends_removes_it(root: Root, kept: Path) -> None:
    with pytest.raises(SystemExit):
        Watch(root)._end(0)
    assert gone(kept)


@pytest.mark.parametrize(
    ("settings", "goes"),
    [
        (known_settings(), False),
        (known_settings() - {"canary_samples"}, True),
        (None, True),  # so old that it lists none
    ],
)
def test_only_a_release_that_knows_of_it_finds_it(
    root: Root,
    kept: Path,
    settings: frozenset[str] | None,
    goes: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    current(root, settings)
    monkeypatch.setattr(os, "execve", lambda *_: None)
    become(root)
    assert gone(kept) is goes


def test_a_supervisor_that_is_started_for_an_old_release_finds_nothing(
    root: Root, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current(root, None)

    def refuse(*_: object, **__: object) -> None:
        raise EdgekitError("no")

    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(EdgekitError, match="no"):
        Detached(root).start()
    assert gone(kept)
