"""Releases that are bad in a way that only running them shows, as bundles of a project.

Each is the good bundle with one layer replaced; everything else in it is equal, its golden prompts
too. Nothing in the agent knows of this: the fault is in the bytes of the release.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.bundle.layers import members, put_tar
from edgekit.bundle.layout import Layout
from edgekit.bundle.tar import plain_tar
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    UNPACKED,
    WEIGHT_TYPE,
    Descriptor,
    Manifest,
    encode,
)
from edgekit.store import read_chunks

Change = Callable[[Layout, Manifest], Manifest]

SERVICE = "edgekit/agent/serve/loop/service.py"
DECODER = "edgekit/agent/serve/worker/decoder/generator.py"
POLLED = "edgekit/mqtt/polled.py"

CRASH_SECONDS = 20.0
STEP_SECONDS = 0.3  # so the model makes at most 3.3 tokens/s
EATEN_BYTES = 64 << 20  # in every tick, which is two of them a second

# file -> the code that is appended to it
SLOW = {
    DECODER: f"""
_step = GeneratorDecoder.step
def _slow(self, tokens):
    __import__("time").sleep({STEP_SECONDS})
    return _step(self, tokens)
GeneratorDecoder.step = _slow
"""
}
GREEDY = {
    SERVICE: f"""
_tick, _eaten = Service._tick, []
def _eats(self, now):
    _eaten.append(bytearray(b"x") * {EATEN_BYTES})
    return _tick(self, now)
Service._tick = _eats
"""
}
CRASHING = {
    SERVICE: f"""
_tick, _began = Service._tick, time.monotonic()
def _crashes(self, now):
    if now - _began > {CRASH_SECONDS}:
        os.abort()
    return _tick(self, now)
Service._tick = _crashes
"""
}
UNCONNECTED = {
    POLLED: """
PolledClient.start = lambda self: None
"""
}


def with_agent(patches: dict[str, str]) -> Change:
    """The release whose agent has more code at the end of these files."""

    def change(store: Layout, manifest: Manifest) -> Manifest:
        files: list[tuple[str, bytes | Path]] = []
        for name, content in members(store.path(manifest.agent.digest)):
            files.append((name, content + patches.get(name, "").encode()))
        assert patches.keys() <= {name for name, _ in files}
        kept = {k: v for k, v in manifest.agent.annotations.items() if k != UNPACKED}
        agent = put_tar(store, plain_tar(files), AGENT_TYPE, kept)
        return _replaced(manifest, manifest.agent, agent)

    return change


def with_weights(plant: Callable[[Path], None], work: Path) -> Change:
    """The release whose weights are changed by `plant`, which gets a model folder."""

    def change(store: Layout, manifest: Manifest) -> Manifest:
        folder = work / "model"
        folder.mkdir(parents=True)
        for file in manifest.model_files:
            shutil.copyfile(store.path(file.digest), folder / file.title)
        plant(folder)
        for file in manifest.model_files:
            digest, size = store.put_stream(read_chunks(folder / file.title))
            if digest != file.digest:
                assert file.media_type == WEIGHT_TYPE
                changed = Descriptor(file.media_type, digest, size, file.annotations)
                manifest = _replaced(manifest, file, changed)
        return manifest

    return change


def make_bad(store: Layout, good: str, name: str, change: Change) -> Digest:
    """Put a changed copy of the bundle `good` into the store as NAME:VERSION; its digest."""
    manifest = store.resolve(good).manifest
    digest = store.name(name, encode(change(store, manifest)))
    assert digest != store.resolve(good).digest
    return digest


def _replaced(manifest: Manifest, old: Descriptor, new: Descriptor) -> Manifest:
    layers = [new if layer == old else layer for layer in manifest.layers]
    return msgspec.structs.replace(manifest, layers=layers)
