"""The decisions before anything is made: the source, and the candidate models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.make.told import told_digest
from edgekit.builder.request.optionfiles import hash_option_files
from edgekit.builder.request.options import check_options
from edgekit.builder.request.request import (
    BuildRequest,
    CheckedRequest,
    check_request,
    recipes_for,
    refuse_unloadable,
)
from edgekit.builder.source.checkpoint import read_checkpoint
from edgekit.builder.source.configfile import read_config
from edgekit.builder.source.find import LocalSource, find
from edgekit.builder.source.gguf import header_config
from edgekit.builder.source.soundness import type_note, unsound, wrong_values
from edgekit.builder.source.words import processor_refusal, words_refusal
from edgekit.builder.spec import BuildSpec, Precision, Provider
from edgekit.builder.support.architectures import support_of
from edgekit.builder.support.change import Refusal
from edgekit.builder.support.gguf.config import chooses
from edgekit.builder.support.modelconfig import check_config
from edgekit.builder.support.pictures import (
    pictures_refusal,
    takes_pictures,
    text_config,
    text_tensors,
    vision_precision,
)
from edgekit.builder.tools.progress import ProgressCallback


class Candidate(msgspec.Struct, frozen=True):
    """One model that may become the result.

    Attributes:
        recipe: the recipe's name; empty when the user spelled the options out.
        spec: everything that decides its bytes.
        options: the builder's options, with paths of this machine.
    """

    recipe: str
    spec: BuildSpec
    options: dict[str, str]


class Prepared(msgspec.Struct, frozen=True):
    """The source and the candidates of a build.

    Attributes:
        found: the source.
        candidates: in the order in which they are tried; one, unless the recipe is `auto`.
        reads: files and folders that options name.
        notes: remarks for the user, one line each.
    """

    found: LocalSource
    candidates: tuple[Candidate, ...]
    reads: tuple[Path, ...]
    notes: tuple[str, ...]


def prepare(request: BuildRequest, lock_digest: str, report: ProgressCallback) -> Prepared:
    """Check the request and find its source; the only effect is a download.

    Args:
        lock_digest: sha256 (hex) of the toolchain's lock.

    Raises:
        UsageError: the request cannot be met.
        UnreachableError: the model is on the hub and the hub does not answer.
        VerificationError: a downloaded file has another sha256 than the hub lists.
    """
    checked = check_request(request)
    hashed = hash_option_files(checked.given)
    seen: list[str] = []

    def admit(folder: Path) -> None:
        config = read_config(folder)
        refuse_unsupported(config, checked, request)
        seen.extend(refuse_unsound(folder, config, checked))

    found = find(request.model, request.revision, request.hub_cache, report, admit)
    config = read_config(found.path)
    gguf = found.source.kind == "gguf"
    recipes, why = recipes_for(request, checked, chooses(header_config(found)) if gguf else config)
    told = told_digest(found) or msgspec.UNSET
    candidates = []
    for each in recipes:
        options = check_options({**(each.options if each else {}), **checked.plain})
        options |= {"hf_remote": "true"} if request.trust_remote_code else {}
        options |= {"exclude_embeds": "true"} if takes_pictures(config) else {}
        precision = each.precision if each else checked.precision
        spec = BuildSpec(
            source=found.source,
            precision=msgspec.convert(precision, Precision),
            provider=msgspec.convert(request.provider, Provider),
            # without paths: they do not decide the bytes, and they name places on this machine
            options=options,
            option_files=hashed.files,
            toolchain=lock_digest,
            context=request.context,
            vision=vision_precision(config, request.vision_precision, precision) or msgspec.UNSET,
            told=told,
        )
        candidates.append(Candidate(each.name if each else "", spec, options | hashed.paths))
    return Prepared(found, tuple(candidates), hashed.reads, checked.notes + why + tuple(seen))


def refuse_unsupported(
    config: dict[str, Any], checked: CheckedRequest, request: BuildRequest
) -> None:
    """Refuse a configuration that the build is known to fail on, or to make wrong.

    Args:
        config: config.json of the model; empty for a GGUF file whose header is read later.

    Raises:
        UsageError: it is not a model's config.json, or the model cannot be built; the error says
            why, and what to build instead.
    """
    if not config:
        return
    check_config(config)
    trusted = request.trust_remote_code
    support = support_of(
        config,
        checked.precision,
        request.provider,
        trust_remote_code=trusted,
        context=request.context,
        adapter="adapter_path" in checked.given,
    )
    if support.refusal:
        raise support.refusal.error
    if refusal := refused_pictures(config, checked, request):
        raise refusal.error
    refuse_unloadable(checked, config)


def refused_pictures(
    config: dict[str, Any], checked: CheckedRequest, request: BuildRequest
) -> Refusal | None:
    """Why the request does not fit the pictures that a model takes, or does not take, or None."""
    return pictures_refusal(
        config, request.vision_precision, checked.precision, request.provider, request.context,
        checked.given,
    )  # fmt: skip


def refuse_unsound(
    folder: Path, config: dict[str, Any], checked: CheckedRequest
) -> tuple[str, ...]:
    """Refuse words, weights or an adapter of which the build would make another model.

    Args:
        folder: the model's, or what transformers makes of a GGUF file.
        config: its config.json; for an empty one nothing is refused.

    Returns:
        Notes for the user, one line each.

    Raises:
        UsageError: names the tensor, the file or the setting.
    """
    if not config:
        return ()
    refuse_words(folder, config)
    if refusal := processor_refusal(folder, config):
        raise refusal.error
    tensors = text_tensors(config, read_checkpoint(folder) or {})
    config = text_config(config)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if refusal := unsound(config, shapes, checked.given) or wrong_values(config, tensors):
        raise refusal.error
    return type_note(config, tensors)


def refuse_words(folder: Path, config: dict[str, Any]) -> None:
    """Refuse search defaults, token ids and words that fit no row of the model.

    Raises:
        UsageError: names the setting.
    """
    if refusal := words_refusal(folder, config):
        raise refusal.error
