"""Attacks by golden prompts: a device holds a trial against what the packed model answered only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.golden import MAX_GOLDEN_BYTES, Golden, GoldenPrompt
from edgekit.core.manifest import (
    GOLDEN_TYPE,
    TITLE,
    WEIGHT_TYPE,
    Descriptor,
    Manifest,
    encode,
    parse_manifest,
)
from tests.attacked import ATTACKS, GOOD, NEXT, Attack, Bundle, Device, attack
from tests.metadata_maker import write_export

VOCABULARY = 100
PROMPT = GoldenPrompt([1, 2, 3, 4, 5], 2, [3, 4, 5], [2.0, 0.5, 3.0], [-0.1, -1.0, -0.2], "ab")
RECORDED = msgspec.json.encode(Golden([PROMPT]))
EASY = msgspec.json.encode(Golden([PROMPT], agreement=0.0, nll=999.0))  # any model passes these


def with_golden(golden: bytes, listed: Callable[[Manifest], Manifest] = lambda m: m) -> Bundle:
    """`NEXT` with golden prompts; its last blob is these.

    Args:
        golden: the bytes of golden.json.
        listed: changes the manifest.
    """
    sizes = msgspec.json.encode({"model": {"vocab_size": VOCABULARY}})
    manifest = parse_manifest(NEXT.manifest)
    more = [
        Descriptor(WEIGHT_TYPE, Digest.of(sizes), len(sizes), {TITLE: "genai_config.json"}),
        Descriptor(GOLDEN_TYPE, Digest.of(golden), len(golden), {TITLE: "golden.json"}),
    ]
    whole = msgspec.structs.replace(manifest, layers=[*manifest.layers, *more])
    data = encode(listed(whole))
    return Bundle(data, (data, *NEXT.blobs[1:], sizes, golden))


def _blob(folder: Path, golden: bytes) -> Path:
    return folder / "blobs" / "sha256" / Digest.of(golden).hex


def _stick(device: Device, folder: Path, release: Bundle) -> Path:
    """A stick with a release that the project signed."""
    device.maker.sign(release.manifest, GOOD + 1)
    device.maker.bump()
    write_export(folder / "stick", device.maker.made(), release.blobs)
    return folder / "stick"


def _other_bytes(other: bytes) -> Attack:
    """A stick whose golden.json is another than the manifest says."""

    def run(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
        release = with_golden(RECORDED)
        stick = _stick(device, folder, release)
        _blob(stick, RECORDED).unlink()
        _blob(stick, RECORDED).write_bytes(other)
        return device.verb("stage", release.digest, "--from", str(stick))

    return run


ATTACKS["golden prompts with other bytes"] = _other_bytes(RECORDED.replace(b"0.95", b"0.00"))
ATTACKS["golden prompts that are cut"] = _other_bytes(RECORDED[:-1])
ATTACKS["golden prompts of another bundle"] = _other_bytes(EASY)


@attack("golden prompts changed in the store")
def _in_the_store(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
    """A stolen SSH key writes other golden prompts under the name of those that were sent."""
    release = with_golden(RECORDED)
    device.push(release, GOOD + 1)
    path = device.root.store.path(Digest.of(RECORDED))
    path.unlink()
    path.write_bytes(RECORDED.replace(b"0.95", b"0.00"))
    answer = device.verb("stage", release.digest)
    device.mark()  # the blob is dropped: the next push sends the right one
    assert not path.exists()
    assert not device.root.release(release.digest).exists()
    return answer


@attack("golden prompts exchanged in the manifest")
def _in_the_manifest(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    """The manifest names prompts that any model passes: it is no longer the one that was signed."""
    device.maker.sign(with_golden(RECORDED).manifest, GOOD + 1)
    device.maker.bump()
    return device.offer(with_golden(EASY), device.maker.made())


@attack("golden prompts left out of the manifest")
def _left_out(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    device.maker.sign(with_golden(RECORDED).manifest, GOOD + 1)
    device.maker.bump()
    return device.offer(NEXT, device.maker.made())


def _meaningless(golden: bytes) -> Attack:
    """The project's own signature covers the prompts; they make no sense for the model."""

    def run(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
        release = with_golden(golden)
        device.push(release, GOOD + 1)
        code, answer = device.verb("stage", release.digest)
        assert "golden prompts" in answer["what"], answer
        assert not device.root.release(release.digest).exists()
        return code, answer

    return run


def _changed(**changes: Any) -> bytes:
    return msgspec.json.encode(Golden([msgspec.structs.replace(PROMPT, **changes)]))


MEANINGLESS = {
    "no JSON": b"\xff\0",
    "too large": RECORDED.ljust(MAX_GOLDEN_BYTES + 1),
    "a token outside the vocabulary": _changed(tokens=[1, 2, 3, 4, VOCABULARY]),
    "fewer values than positions": _changed(margins=[2.0]),
    "a likelihood above one": _changed(logprobs=[0.5, -1.0, -0.2]),
    "an agreement above one": msgspec.json.encode(Golden([PROMPT], agreement=1.5)),
    "a soak of years": msgspec.json.encode(Golden([PROMPT], soak_seconds=1e9)),
    "more tokens than the context": msgspec.json.encode(
        Golden([msgspec.structs.replace(PROMPT, tokens=[1] * 17 + [3, 4, 5], start=17)])
    ),
}
for _name, _golden in MEANINGLESS.items():
    ATTACKS[f"golden prompts: {_name}"] = _meaningless(_golden)
