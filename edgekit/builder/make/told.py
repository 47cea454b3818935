"""The folder that the model builder reads: the source, or a view of it with a mended config."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.builder.source.configfile import CONFIG_NAME, read_config
from edgekit.builder.support.mend import mended, mends
from edgekit.builder.support.modelconfig import architecture_of

VIEW_NAME = "told"  # not the source's name, which may be the name of the output in this folder


def as_told(source: Path, work: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder for the builder to read, and the changes to config.json, one line each.

    Args:
        source: a Hugging Face folder; it is not written to.
        work: holds the view where one is needed: links to the files, and a changed config.json.
    """
    config = read_config(source)
    changes = mends(architecture_of(config), config)
    if not changes:
        return source, ()
    view = work / VIEW_NAME
    view.mkdir()
    for file in source.iterdir():
        if file.name != CONFIG_NAME:
            # to the file itself: the hub's cache consists of links, and a container mounts only the
            # files that they point to
            (view / file.name).symlink_to(file.resolve())
    changed = msgspec.json.encode(mended(config, changes))
    (view / CONFIG_NAME).write_bytes(msgspec.json.format(changed, indent=2))
    return view, tuple(change.why for change in changes)
