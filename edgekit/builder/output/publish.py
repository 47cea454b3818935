"""The output folder: what it holds already, and how a finished build takes its place.

Everything unfinished lies in `.NAME.building-PID` beside the output, claimed by the process that
writes it; a claim that nobody holds is a leftover of a killed build and is removed by the next one.
A folder that gives way waits as `.NAME.replaced-PID` until the new one stands.
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
from edgekit.errors import EdgekitError, UsageError


def read_record(out: Path) -> BuildRecord | None:
    """The `build.json` of a folder, or None when it is no output of edgekit."""
    try:
        return msgspec.json.decode((out / RECORD_NAME).read_bytes(), type=BuildRecord)
    except (OSError, msgspec.MsgspecError):
        return None


def check_out(out: Path) -> None:
    """Refuse an output that would overwrite something edgekit did not make.

    Raises:
        UsageError: a file, or a folder with other things in it.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file", next_step="name a folder with -o")
    # the name alone decides: a record of another version is still ours to replace
    if any(out.iterdir()) and not (out / RECORD_NAME).is_file():
        raise UsageError(
            f"{out} is not empty",
            why=f"it holds files that are not a build of edgekit (no {RECORD_NAME})",
            next_step="name another folder with -o, or empty this one",
        )


def up_to_date(out: Path, build_id: str) -> BuildRecord | None:
    """The record of `out` when it is this very build, every byte of it."""
    record = read_record(out)
    if record is None or record.build_id != build_id or not matches(out, record.files):
        return None
    return record


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, on the same file system, gone when the block ends.

    Raises:
        EdgekitError: another process is building into `out` right now.
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
            with suppress(OSError):  # somebody else uses it by now
                for parent in made:
                    parent.rmdir()


def clean_leftovers(out: Path) -> None:
    """Remove what killed builds of `out` left, and put back an output caught in mid-replacement.

    Raises:
        EdgekitError: one of them is not left over: its process lives.
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
    """Put the finished folder in the place of `out`; the old one goes after the new one stands."""
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
    """Create a folder with its parents; returns the new ones, deepest first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new
