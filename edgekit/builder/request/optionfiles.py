"""Builder options that name a file or a folder; the content there is part of the build id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgekit.builder.files import hash_file, list_files
from edgekit.builder.request.options import PATH_KEYS
from edgekit.errors import UsageError


class OptionFiles(msgspec.Struct, frozen=True):
    """The files and folders that options name on this machine.

    Attributes:
        paths: option -> absolute path, because the builder runs in another folder.
        files: option -> relative path -> sha256 (hex) of each file there.
    """

    paths: dict[str, str]
    files: dict[str, dict[str, str]]

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files and folders that a build reads in addition to its source."""
        return tuple(map(Path, self.paths.values()))


def hash_option_files(options: Mapping[str, str]) -> OptionFiles:
    """Find and hash the files that options name; options without a path are left out.

    Raises:
        UsageError: a named file or folder does not exist.
    """
    paths: dict[str, str] = {}
    files: dict[str, dict[str, str]] = {}
    for key in sorted(PATH_KEYS & options.keys()):
        path = Path(options[key]).expanduser()
        if not path.exists():
            raise missing_option_path(key, path)
        paths[key] = str(path.resolve())
        names = list_files(path) if path.is_dir() else [path.name]
        base = path if path.is_dir() else path.parent
        files[key] = {name: hash_file(base / name) for name in names}
    return OptionFiles(paths, files)


def missing_option_path(key: str, path: Path) -> UsageError:
    """The error for an option that names nothing."""
    return UsageError(
        f"the extra option {key} names {path}, which does not exist",
        next_step="give the path of the file or folder on this machine",
    )
