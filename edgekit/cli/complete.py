"""What a shell completes: names of devices, groups, bundles and rollouts, while a person waits.

The shell's scripts are typer's own (`edgekit --install-completion`). To import a verb takes longer
than a person waits at a key. So a stand-in for the verb completes a word that is a name, and reads
the project's files alone. Options, and the words of a group of verbs, the verb itself completes.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from edgekit.cli.verbs import BUNDLES, DEVICES, ONE_DEVICE, ROLLOUTS, VERBS

PROJECT_FILE = "edgekit.toml"
_NAME = "org.opencontainers.image.ref.name"
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/-]+\Z")
_GROUPS = frozenset(("key", "fleet", "rules", "broker", "gateway"))


def complete() -> None:
    """Answer the shell that asks, as typer does."""
    words = asked_words(os.environ)
    verb = words[1] if len(words) > 2 else ""
    folder = project_of(words, Path.cwd())
    if verb in VERBS and (words[-1].startswith("-") or verb in _GROUPS):
        from edgekit.cli.main import application  # noqa: PLC0415  imports the whole verb

        application(verb)()
        return
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    for name in (verb,) if verb in VERBS else VERBS:
        app.command(
            name,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )(_stand_in(_names(name, words, folder)))
    if verb in VERBS:
        app.callback()(_several)
    app()


def _several() -> None:
    """With it typer asks for the name of a verb also where there is one alone."""


def _stand_in(names: Callable[[], Iterable[str]]) -> Callable[..., None]:
    def given(incomplete: str) -> list[str]:
        return [each for each in names() if each.startswith(incomplete)]

    def command(
        _words: list[str] | None = typer.Argument(None, autocompletion=given),
    ) -> None:
        pass

    return command


def asked_words(environment: Mapping[str, str]) -> list[str]:
    """The words of the command line, the one that is completed last; it may be empty."""
    if "COMP_WORDS" in environment:
        words = environment["COMP_WORDS"].split()
        at = int(environment.get("COMP_CWORD", "0") or 0)
        return [*words, ""][: at + 1]
    text = environment.get("_TYPER_COMPLETE_ARGS", "")
    return text.split() + ([""] if not text or text[-1].isspace() else [])


def project_of(words: list[str], here: Path) -> Path | None:
    """The folder of the project that the command line means; None without one."""
    for before, word in pairwise(words):
        if before == "--project" and word:
            return Path(word).expanduser()
    return next((each for each in (here, *here.parents) if (each / PROJECT_FILE).is_file()), None)


def _names(verb: str, words: list[str], folder: Path | None) -> Callable[[], Iterable[str]]:
    """What makes the names that stand there: none for a file, or for the value of an option."""
    before = words[-2] if len(words) > 2 else ""
    if folder is None:
        return list
    if before == "--bundle":
        return partial(bundles, folder)
    known = partial(devices, groups=verb not in ONE_DEVICE)
    for verbs, read in ((DEVICES, known), (BUNDLES, bundles), (ROLLOUTS, rollouts)):
        if verb in verbs and not before.startswith("-"):
            return partial(read, folder)
    return list


def devices(folder: Path, *, groups: bool = True) -> list[str]:
    """The devices of fleet.toml, and its groups; those of an inventory take longer to read."""
    try:
        told = tomllib.loads((folder / "fleet.toml").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    tables = (told.get(name) for name in ("devices", *(["groups"] if groups else [])))
    return [each for table in tables if isinstance(table, dict) for each in table if _plain(each)]


def bundles(folder: Path) -> list[str]:
    """The bundles of the store by name, NAME:VERSION, from its OCI index."""
    try:
        told: Any = json.loads((folder / ".edgekit/store/index.json").read_text("utf-8"))
        found = [each["annotations"][_NAME] for each in told["manifests"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
    return [each for each in found if _plain(each)]


def rollouts(folder: Path) -> list[str]:
    """The numbers of the rollouts, the newest first."""
    names = [each.stem for each in (folder / ".edgekit/rollouts").glob("*.db")]
    return [
        str(n)
        for n in sorted(
            {int(each) for each in names if each.isascii() and each.isdigit()}, reverse=True
        )
    ]


def _plain(name: Any) -> bool:
    """Whether a name has nothing that a shell or a terminal would act on."""
    return isinstance(name, str) and bool(_PLAIN.match(name))
