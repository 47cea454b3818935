"""Golden prompts where a release is staged: checked against the model, linked, tampered with."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.goldenfile import check_golden
from edgekit.agent.release.staging.stage import offer, stage
from edgekit.bundle.tar import compress, plain_tar
from edgekit.core.digest import Digest
from edgekit.core.golden import MAX_GOLDEN_BYTES, Golden, GoldenPrompt
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    GOLDEN_TYPE,
    MANIFEST_TYPE,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    TITLE,
    WEIGHT_CONFIG_TYPE,
    BundleConfig,
    Descriptor,
    Fit,
    Manifest,
    encode,
    oci_platform,
    parse_manifest,
)
from edgekit.errors import VerificationError
from edgekit.trust.pinned import PinnedManifest, pin
from tests.trusted import vouched

BUNDLE = BundleConfig("tiny", "1", "llama", "", 16, 1, 16, Fit(0, 0))
CONFIG = encode(BUNDLE)
TREE = b"".join(compress(plain_tar([("edgekit/__init__.py", b"")])))
GENAI = b'{"model": {"vocab_size": 50, "type": "llama"}}'
GOLDEN = msgspec.json.encode(Golden([GoldenPrompt([1, 2, 3], 2, [3], [2.0], [-0.1])]))


def release(golden: bytes = GOLDEN, genai: bytes | None = GENAI, layers: int = 1) -> PinnedManifest:
    here = oci_platform(platform.machine())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    files: Mapping[str, bytes] = {} if genai is None else {"genai_config.json": genai}
    manifest = Manifest(
        2,
        MANIFEST_TYPE,
        BUNDLE_TYPE,
        Descriptor(CONFIG_TYPE, Digest.of(CONFIG), len(CONFIG)),
        [
            *(
                Descriptor(WEIGHT_CONFIG_TYPE, Digest.of(data), len(data), {TITLE: name})
                for name, data in files.items()
            ),
            Descriptor(AGENT_TYPE, Digest.of(TREE), len(TREE)),
            Descriptor(RUNTIME_TYPE, Digest.of(TREE), len(TREE), {PLATFORM: here, PYTHON: python}),
            *[Descriptor(GOLDEN_TYPE, Digest.of(golden), len(golden), {TITLE: "golden.json"})]
            * layers,
        ],
    )
    data = encode(manifest)
    return pin(data, Digest.of(data))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path / "root")
    root.create()
    for data in (CONFIG, TREE, GENAI, GOLDEN):
        root.store.put(data)
    return root


def missing(root: Root, pinned: PinnedManifest) -> object:
    """Offer a release; what the device lacks."""
    return offer(root, vouched(root, pinned))["missing"]


def staged(root: Root, pinned: PinnedManifest) -> Path:
    missing(root, pinned)
    return stage(root, pinned.digest)


def test_a_release_has_its_golden_prompts_beside_the_model(root: Root) -> None:
    folder = staged(root, release())
    assert (folder / "golden.json").read_bytes() == GOLDEN
    assert [path.name for path in (folder / "model").iterdir()] == ["genai_config.json"]


def test_a_release_that_an_older_agent_staged_gets_them(root: Root) -> None:
    folder = staged(root, release())
    (folder / "golden.json").unlink()
    assert staged(root, release()) == folder
    assert (folder / "golden.json").read_bytes() == GOLDEN


def test_a_device_fetches_them(root: Root) -> None:
    root.store.remove(Digest.of(GOLDEN))
    assert missing(root, release()) == [
        {"digest": Digest.of(GOLDEN), "size": len(GOLDEN), "have": 0}
    ]


def test_tampered_golden_prompts_are_refused_and_sent_again(root: Root) -> None:
    pinned = release()
    missing(root, pinned)
    blob = root.store.path(Digest.of(GOLDEN))
    blob.chmod(0o644)
    blob.write_bytes(GOLDEN.replace(b"-0.1", b"-0.2"))
    with pytest.raises(VerificationError, match="corrupt") as refused:
        stage(root, pinned.digest)
    assert refused.value.exit_code == 4
    assert not root.release(pinned.digest).exists()
    size = len(GOLDEN)
    assert missing(root, pinned) == [{"digest": Digest.of(GOLDEN), "size": size, "have": 0}]


def test_golden_prompts_tampered_with_after_staging_are_linked_again(root: Root) -> None:
    place = staged(root, release()) / "golden.json"
    place.unlink()
    place.write_bytes(b'{"prompts": []}')
    staged(root, release())
    assert place.read_bytes() == GOLDEN


def prompt(**changes: Any) -> bytes:
    values = {"tokens": [1, 2, 3], "start": 2, "best": [3], "margins": [2], "logprobs": [-1]}
    return msgspec.json.encode({"prompts": [values | changes]})


@pytest.mark.parametrize(
    ("golden", "says"),
    [
        (prompt(best=[50]), "token 50 is outside the vocabulary of 50"),
        (prompt(tokens=list(range(17)), start=16), "one has 17 tokens, the bundle's context is 16"),
        (prompt(start=1), "best has 1 values for 2 scored positions"),
        (b'{"prompts": [], "nll": NaN}', "malformed"),
        (b" " * (MAX_GOLDEN_BYTES + 1), "at most 262144 are read"),
        (b"", "truncated"),
    ],
)
def test_values_without_meaning_are_refused_at_staging(
    root: Root, golden: bytes, says: str
) -> None:
    root.store.put(golden)
    with pytest.raises(VerificationError, match="golden prompts") as refused:
        staged(root, release(golden))
    assert refused.value.exit_code == 4
    assert says in refused.value.why
    assert not list((root.path / "releases").iterdir())


@pytest.mark.parametrize("genai", [None, b"{}", b"\xff", b'{"model": {"vocab_size": "9"}}'])
def test_a_model_that_does_not_say_its_vocabulary_is_refused(
    root: Root, genai: bytes | None
) -> None:
    if genai is not None:
        root.store.put(genai)
    pinned = release(genai=genai)
    with pytest.raises(VerificationError, match=r"genai_config|golden prompts"):
        check_golden(root.store, pinned.manifest, BUNDLE)


def test_a_bundle_of_before_has_none_and_passes(root: Root) -> None:
    pinned = release(genai=None, layers=0)
    check_golden(root.store, pinned.manifest, BUNDLE)
    assert not (staged(root, pinned) / "golden.json").exists()


def test_a_bundle_with_two_records_is_none() -> None:
    with pytest.raises(VerificationError, match="at most one layer of golden"):
        parse_manifest(release(layers=2).data)


def test_a_golden_layer_that_leads_out_of_the_folder_is_linked_under_its_own_name(
    root: Root,
) -> None:
    pinned = release()
    data = pinned.data.replace(b'"golden.json"', b'"../golden.json"')
    elsewhere = pin(data, Digest.of(data))
    folder = staged(root, elsewhere)
    assert (folder / "golden.json").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
