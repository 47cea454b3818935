"""The output folder: checks its present content, and replaces it by a finished build.

Unfinished files lie in `.NAME.building-PID` beside the output. The process that writes them holds a
claim on this folder; one without a claim is a leftover of a killed build, and the next build
removes it. The replaced folder is kept as `.NAME.replaced-PID` until the new one is in place.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edgekit.builder.files import Claim, matches, remove_unclaimed, sync, sync_tree
from edgekit.builder.spec import BuildRecord
from edgekit.core.buildinfo import RECORD_NAME
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, UsageError


def read_record(out: Path) -> BuildRecord | None:
    """The record in a folder's `build.json`; None when there is no readable one."""
    try:
        return msgspec.json.decode((out / RECORD_NAME).read_bytes(), type=BuildRecord)
    except (OSError, *UNREADABLE):
        return None


def check_out(out: Path) -> None:
    """Refuse an output that would overwrite files which edgekit did not make.

    Raises:
        UsageError: it is a file, or a folder with other files.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file", next_step="name a folder with -o")
    # the file's name alone decides: a record of another version may be replaced, too
    if any(out.iterdir()) and not (out / RECORD_NAME).is_file():
        raise UsageError(
            f"{out} is not empty",
            why=f"it holds files that are not a build of edgekit (no {RECORD_NAME})",
            next_step="name another folder with -o, or empty this one",
        )


def up_to_date(out: Path, build_id: str) -> BuildRecord | None:
    """The record of `out` if it holds this build with every byte unchanged; else None."""
    record = read_record(out)
    if record is None or record.build_id != build_id or not matches(out, record.files):
        return None
    return record


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, on the same file system, removed when the block ends.

    Raises:
        EdgekitError: another process is building into `out`.
    """
    made = _make_parents(out.parent)
    clean_leftovers(out)
    work = out.parent / f".{out.name}.building-{os.getpid()}"
    done = False
    try:
        work.mkdir()
        claim = Claim(work)
        try:
            claim.take()
            yield work
        finally:
            claim.release()
        done = True
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not done:
            with suppress(OSError):  # another process uses the folder by now
                for parent in made:
                    parent.rmdir()


def clean_leftovers(out: Path) -> None:
    """Remove leftovers of killed builds of `out`; restore an output whose replacement was cut off.

    Raises:
        EdgekitError: one of the folders is claimed by a running process.
    """
    name = glob.escape(out.name)
    for work in out.parent.glob(f".{name}.building-*"):
        if not remove_unclaimed(work):
            raise EdgekitError(
                f"another edgekit is building {out}",
                next_step="wait for it, or name another folder with -o",
            )
    for old in out.parent.glob(f".{name}.replaced-*"):
        if out.exists():
            shutil.rmtree(old)
        else:
            old.rename(out)


def publish(model: Path, out: Path) -> None:
    """Replace `out` by the finished folder; the old folder is removed once the new one stands."""
    sync_tree(model)
    old = out.parent / f".{out.name}.replaced-{os.getpid()}"
    try:
        if out.exists():
            out.rename(old)
        model.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    sync(out.parent)
    if old.exists():
        shutil.rmtree(old)


def _make_parents(folder: Path) -> list[Path]:
    """Create a folder with its parents; return those that are new, deepest first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new
