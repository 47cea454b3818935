"""The folder that the model builder reads: the source, or a view of it with a mended config."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.make.renamed import rename
from edgekit.builder.source.checkpoint import read_checkpoint
from edgekit.builder.source.configfile import (
    CONFIG_NAME,
    read_config,
    read_object,
    read_template,
)
from edgekit.builder.source.find import LocalSource
from edgekit.builder.source.gguf import reading_of
from edgekit.builder.source.soundness import own_head
from edgekit.builder.source.words import processor_files, processor_template
from edgekit.builder.support.change import Mend
from edgekit.builder.support.families import tied_by_class
from edgekit.builder.support.generation import GENERATION_NAME, generation_mends, of_text
from edgekit.builder.support.mend import mended, mends, merge_patch
from edgekit.builder.support.modelconfig import architecture_of
from edgekit.builder.support.pictures import family_of
from edgekit.builder.support.seeing.family import PictureFamily

VIEW_NAME = "told"  # not the source's name, which may be the name of the output in this folder


class ToldSettings(msgspec.Struct, frozen=True):
    """What the builder is to read as config.json and generation_config.json.

    Attributes:
        generation: None where the source has no such file and needs none.
        notes: the changes, one line each.
        changed: one of the two differs from the source's.
    """

    config: dict[str, Any]
    generation: dict[str, Any] | None
    notes: tuple[str, ...]
    changed: bool


def told_digest(found: LocalSource) -> str:
    """Sha256 (hex) of what edgekit makes of a source's settings; empty where it takes them as is.

    A part of the build id: the same source that is read otherwise makes another model.

    Raises:
        UsageError: a file of the source, or the header of a GGUF file, cannot be read.
    """
    if found.source.kind == "gguf":
        reading = reading_of(found)
        told = _settle(reading["config"], reading["sampling"], ())
        return _digest({**reading, "told": [told.config, told.generation]})
    told = decide(found.path)
    config = read_config(found.path)
    if family := family_of(config):  # its processor's files are read, too
        sections = family.sections(config, processor_files(found.path))
        return _digest([told.config, told.generation, sections])
    return _digest([told.config, told.generation]) if told.changed else ""


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def decide(source: Path) -> ToldSettings:
    """What the builder is to read in place of a Hugging Face folder's settings."""
    config, generation = read_config(source), read_object(source, GENERATION_NAME)
    head = None
    if tied_by_class(config):
        head = own_head(config, read_checkpoint(source) or {})
    return _settle(config, generation, (head,) if head else ())


def _settle(
    config: dict[str, Any], generation: dict[str, Any] | None, more: tuple[Mend, ...]
) -> ToldSettings:
    changes = (*mends(architecture_of(config), config), *more)
    defaults = generation_mends(of_text(config), generation)
    config = mended(config, changes)
    for each in defaults:
        config = merge_patch(config, each.config)
        generation = merge_patch(generation or {}, each.generation) if each.generation else (
            generation
        )  # fmt: skip
    said = (*(each.why for each in changes), *(each.why for each in defaults if each.why))
    return ToldSettings(config, generation, said, bool(changes or defaults))


def as_told(source: Path, work: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder for the builder to read, and the changes to its settings, one line each.

    Args:
        source: a Hugging Face folder; it is not written to.
        work: holds the view where one is needed: links to the files, and a changed config.json
            and generation_config.json.
    """
    told = decide(source)
    if not told.changed:
        return source, ()
    original = read_config(source)
    family = family_of(original)
    view = work / VIEW_NAME
    view.mkdir()
    for file in source.iterdir():
        if file.name not in (CONFIG_NAME, GENERATION_NAME):
            # to the file itself: the hub's cache consists of links, and a container mounts only the
            # files that they point to
            (view / file.name).symlink_to(file.resolve())
    for name, content in ((CONFIG_NAME, told.config), (GENERATION_NAME, told.generation)):
        if content is not None:
            changed = msgspec.json.encode(content)
            (view / name).write_bytes(msgspec.json.format(changed, indent=2))
    if family is not None:
        rename(source, view, family, original)
        _template(source, view, family)
    return view, told.notes


def _template(source: Path, view: Path, family: PictureFamily) -> None:
    """Give the view the chat template that a processor has in a file of its own, for tokenizers."""
    if not family.template_of_processor and read_template(source):
        return
    if found := processor_template(source, whole=family.template_of_processor):
        path = view / "chat_template.jinja"
        path.unlink(missing_ok=True)  # it may be a link to the source's
        path.write_text(found, encoding="utf-8")
