"""A bundle's golden prompts where it is staged: checked against the model, linked, and read."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.core import layout
from edgekit.core.golden import MAX_GOLDEN_BYTES, parse_golden
from edgekit.core.manifest import BundleConfig, Manifest
from edgekit.core.reading import UNREADABLE
from edgekit.errors import VerificationError
from edgekit.store import BlobStore

GENAI_CONFIG = "genai_config.json"


class _Sizes(msgspec.Struct, frozen=True):
    vocab_size: int


class _Genai(msgspec.Struct, frozen=True):
    model: _Sizes


def check_golden(store: BlobStore, manifest: Manifest, config: BundleConfig) -> None:
    """Check what a trial will rely on; a bundle without golden prompts passes.

    Args:
        store: holds the verified blobs.
        manifest: of the bundle.
        config: of the bundle.

    Raises:
        VerificationError: a value makes no sense for this model; names it.
    """
    layer = manifest.golden
    if layer is None:
        return
    if layer.size > MAX_GOLDEN_BYTES:
        raise VerificationError(
            "the bundle's golden prompts are not usable",
            f"they have {layer.size} bytes, at most {MAX_GOLDEN_BYTES} are read",
            "pack the model again",
        )
    golden = parse_golden(store.read(layer.digest), _vocabulary(store, manifest))
    longest = max((len(prompt.tokens) for prompt in golden.prompts), default=0)
    if longest > config.context_length:
        raise VerificationError(
            "the bundle's golden prompts are not usable",
            f"one has {longest} tokens, the bundle's context is {config.context_length}",
            "pack the model again",
        )


def golden_links(store: BlobStore, manifest: Manifest) -> list[tuple[Path, str]]:
    """The golden prompts' blob and its name in the release's folder; none without them."""
    layer = manifest.golden
    return [] if layer is None else [(store.path(layer.digest), layout.GOLDEN)]


def _vocabulary(store: BlobStore, manifest: Manifest) -> int:
    for file in manifest.model_files:
        if file.title == GENAI_CONFIG:
            try:
                return msgspec.json.decode(store.read(file.digest), type=_Genai).model.vocab_size
            except UNREADABLE as error:
                raise VerificationError(
                    f"the bundle's {GENAI_CONFIG} cannot be read", str(error)
                ) from error
    raise VerificationError(
        "the bundle's golden prompts are not usable",
        f"it has no {GENAI_CONFIG}, which says how many tokens the model knows",
        "pack the model again",
    )
