"""Options of the builder that name a file or a folder: their content is part of the build."""

from __future__ import annotations

from pathlib import Path

from edgekit.builder.files import hash_file, list_files
from edgekit.builder.options import PATH_KEYS
from edgekit.errors import UsageError


def hash_option_files(options: dict[str, str]) -> dict[str, dict[str, str]]:
    """For each option that names something, relative path -> sha256 (hex) of what it names.

    The values become absolute on the way: the builder runs in another folder.

    Raises:
        UsageError: there is nothing of that name.
    """
    found = {}
    for key in sorted(PATH_KEYS & options.keys()):
        path = Path(options[key]).expanduser()
        if not path.exists():
            raise UsageError(f"the extra option {key} names {path}, which does not exist")
        options[key] = str(path.resolve())
        names = list_files(path) if path.is_dir() else [path.name]
        base = path if path.is_dir() else path.parent
        found[key] = {name: hash_file(base / name) for name in names}
    return found
