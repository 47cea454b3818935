"""The folder that the model builder reads: the source, or a view of it with a mended config."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.builder.make.renamed import rename
from edgekit.builder.source.checkpoint import read_checkpoint
from edgekit.builder.source.configfile import (
    CONFIG_NAME,
    read_config,
    read_object,
    read_template,
)
from edgekit.builder.source.soundness import own_head
from edgekit.builder.source.words import processor_template
from edgekit.builder.support.families import tied_by_class
from edgekit.builder.support.generation import GENERATION_NAME, generation_mends, of_text
from edgekit.builder.support.mend import mended, mends, merge_patch
from edgekit.builder.support.modelconfig import architecture_of
from edgekit.builder.support.pictures import family_of
from edgekit.builder.support.seeing.family import PictureFamily

VIEW_NAME = "told"  # not the source's name, which may be the name of the output in this folder


def as_told(source: Path, work: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder for the builder to read, and the changes to its settings, one line each.

    Args:
        source: a Hugging Face folder; it is not written to.
        work: holds the view where one is needed: links to the files, and a changed config.json
            and generation_config.json.
    """
    config, generation = read_config(source), read_object(source, GENERATION_NAME)
    original, family = config, family_of(config)
    changes = mends(architecture_of(config), config)
    if tied_by_class(config) and (head := own_head(config, read_checkpoint(source) or {})):
        changes += (head,)
    defaults = generation_mends(of_text(config), generation)
    if not (changes or defaults):
        return source, ()
    config = mended(config, changes)
    for each in defaults:
        config = merge_patch(config, each.config)
        generation = merge_patch(generation or {}, each.generation) if each.generation else (
            generation
        )  # fmt: skip
    view = work / VIEW_NAME
    view.mkdir()
    for file in source.iterdir():
        if file.name not in (CONFIG_NAME, GENERATION_NAME):
            # to the file itself: the hub's cache consists of links, and a container mounts only the
            # files that they point to
            (view / file.name).symlink_to(file.resolve())
    for name, content in ((CONFIG_NAME, config), (GENERATION_NAME, generation)):
        if content is not None:
            changed = msgspec.json.encode(content)
            (view / name).write_bytes(msgspec.json.format(changed, indent=2))
    if family is not None:
        rename(source, view, family, original)
        _template(source, view, family)
    said = (*(each.why for each in changes), *(each.why for each in defaults if each.why))
    return view, said


def _template(source: Path, view: Path, family: PictureFamily) -> None:
    """Give the view the chat template that a processor has in a file of its own, for tokenizers."""
    if not family.template_of_processor and read_template(source):
        return
    if found := processor_template(source, whole=family.template_of_processor):
        path = view / "chat_template.jinja"
        path.unlink(missing_ok=True)  # it may be a link to the source's
        path.write_text(found, encoding="utf-8")
