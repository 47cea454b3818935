"""Finds the model that `-m` names: a Hugging Face folder, a GGUF file, or a hub repository."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.builder.files import hash_file, scratch
from edgekit.builder.source.checkpoint import (
    adapter_inside,
    lacking_weights,
    read_checkpoint,
)
from edgekit.builder.source.ggufparts import find_parts
from edgekit.builder.source.safetensors import refuse_pointer
from edgekit.builder.spec import Source
from edgekit.builder.tools.failure import failure
from edgekit.builder.tools.process import INSIDE, ProcessResult, clean_environment, event, run
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.data import cache_root
from edgekit.errors import EdgekitError, UnreachableError, UsageError, VerificationError

FETCH_DEADLINE_SECONDS = 24 * 3600  # tens of GB over a slow link

# The files of a folder that a build may read; `inside/fetch.py` downloads by the same rule.
_SUFFIXES = (".json", ".safetensors", ".model", ".jinja", ".txt", ".tiktoken", ".py")
_LICENCES = ("LICENSE", "LICENCE", "NOTICE")
_TEMPLATES = "additional_chat_templates"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GGUF_MAGIC = b"GGUF"
_HUB_VARIABLES = (
    "HF_",
    "XDG_CACHE_HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)


class LocalSource(msgspec.Struct, frozen=True):
    """A source on this machine: its content as `Source`, and the path of its folder or file."""

    source: Source
    path: Path


def _every(_: Path) -> None:
    """Takes every folder."""


def find(
    model: str,
    revision: str | None,
    hub_cache: Path | None,
    report: ProgressCallback,
    admit: Callable[[Path], None] = _every,
) -> LocalSource:
    """Find the model that `-m` names; download it first when it is on the hub.

    Args:
        admit: refuses a folder, before its files are hashed.

    Raises:
        UsageError: there is no usable model of that name.
        UnreachableError: the hub does not answer.
        VerificationError: a downloaded file has another sha256 than the hub lists.
        EdgekitError: the hub refuses, or the download failed.
    """
    path = Path(model).expanduser()
    if path.exists():
        if revision:
            raise UsageError(
                "--revision goes with a Hugging Face name, not with a local path",
                next_step="leave --revision out, or name ORG/NAME with -m",
            )
        report(Progress("source", f"reading {path.name}"))
        # a part of a GGUF model is known by its name, which a link of a cache leads away from
        return _folder(path.resolve(), admit) if path.is_dir() else _gguf(path.absolute())
    if model.endswith(".gguf") or not HUB_NAME.fullmatch(model):
        raise UsageError(
            f"there is no {model}",
            next_step="give a Hugging Face folder, a .gguf file, or a name like ORG/NAME",
        )
    return _fetch(model, revision, hub_cache, report, admit)


def _folder(folder: Path, admit: Callable[[Path], None]) -> LocalSource:
    refuse_no_model(folder)
    names = [name for name in _candidates(folder) if name.endswith(_SUFFIXES)]
    for name in names:
        refuse_pointer(folder / name)
    if read_checkpoint(folder) is None:
        raise lacking_weights(folder.name, [path.name for path in folder.iterdir()]).error
    admit(folder)
    hashes = {name: hash_file(folder / name) for name in sorted(names)}
    return LocalSource(Source("folder", folder.name, "", hashes), folder)


def refuse_no_model(folder: Path) -> None:
    """Refuse a folder that is not that of a model.

    Raises:
        UsageError: it is an adapter, holds one, or has no config.json.
    """
    files = [path.name for path in folder.iterdir()]
    if refusal := adapter_inside(folder.name, files):
        raise refusal.error
    if "config.json" in files:
        return
    if any(file.startswith("consolidated") or file.endswith(".gguf") for file in files):
        raise lacking_weights(folder.name, files).error
    raise UsageError(
        f"{folder.name} is not a Hugging Face model folder",
        why="it has no config.json",
        next_step="give the folder that holds config.json and the *.safetensors files",
    )


def licences(folder: Path) -> list[Path]:
    """The licence files of a model folder; they are copied, and the build id ignores them."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.startswith(_LICENCES))


def _candidates(folder: Path) -> list[str]:
    top = [p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    templates = [f"{_TEMPLATES}/{p.name}" for p in (folder / _TEMPLATES).glob("*.jinja")]
    # Mistral's repositories hold a second copy of the weights, consolidated*.safetensors
    left_out = ("consolidated", *_LICENCES)
    return [name for name in top if not name.startswith(left_out)] + templates


def _gguf(path: Path) -> LocalSource:
    refuse_pointer(path)
    with path.open("rb") as file:
        magic = file.read(len(_GGUF_MAGIC))
    if magic != _GGUF_MAGIC:
        raise UsageError(
            f"{path.name} is not a GGUF file",
            why="it does not begin with the letters GGUF",
            next_step="give a Hugging Face folder, a .gguf file, or a name like ORG/NAME",
        )
    parts = find_parts(path)
    for part in parts:
        refuse_pointer(part)
    files = {part.name: hash_file(part) for part in parts}
    return LocalSource(Source("gguf", parts[0].name, "", files), parts[0])


def _fetch(
    name: str,
    revision: str | None,
    hub_cache: Path | None,
    report: ProgressCallback,
    admit: Callable[[Path], None],
) -> LocalSource:
    # with the controller's own interpreter, because a build container has no network
    argv = [sys.executable, "-E", "-s", str(INSIDE / "fetch.py"), "--repo", name]
    argv += ["--revision", revision] if revision else []
    argv += ["--cache", str(hub_cache.resolve())] if hub_cache else []
    with scratch(cache_root() / "logs") as work:
        finished = run(
            argv,
            shows=Progress("fetch", f"asking Hugging Face for {name}"),
            log=work / "log",
            environment=online_environment(),
            deadline_seconds=FETCH_DEADLINE_SECONDS,
            report=report,
            events=work / "events",
        )
    result = event(finished, "result")
    if finished.code != 0 or result is None:
        raise hub_refusal(name, revision, finished)
    report(Progress("source", f"hashing {name}"))
    found = _folder(Path(result["path"]), admit)
    _refuse_altered(name, found, msgspec.convert(result["sha256"], dict[str, str]))
    return LocalSource(Source("hub", name, str(result["revision"]), found.source.files), found.path)


def _refuse_altered(name: str, found: LocalSource, expected: dict[str, str]) -> None:
    for file, sha256 in sorted(expected.items()):
        if found.source.files.get(file, sha256) != sha256:
            raise VerificationError(
                f"{file} of {name} is not the file on the hub",
                why=f"its sha256 begins with {found.source.files[file][:12]}, "
                f"the hub's with {sha256[:12]}",
                next_step=f"remove {(found.path / file).resolve()} and run the command again",
            )


def online_environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k.upper().startswith(_HUB_VARIABLES)}
    return clean_environment(kept | {"HF_HUB_DISABLE_TELEMETRY": "1"})


def hub_refusal(name: str, revision: str | None, finished: ProcessResult) -> EdgekitError:
    error = event(finished, "error") or {"kind": "", "message": finished.reason}
    kind, message = str(error["kind"]), str(error["message"])
    if kind == "unreachable":
        return UnreachableError(
            f"Hugging Face cannot be reached for {name}",
            why=message,
            next_step="check the network and HF_ENDPOINT, or give a folder that is already here",
        )
    if kind == "GatedRepoError":
        return EdgekitError(
            f"{name} asks for its terms to be accepted",
            why=message,
            next_step="accept them on the model's page, then set HF_TOKEN",
        )
    if kind == "RepositoryNotFoundError":
        return UsageError(
            f"there is no {name}, neither here nor on Hugging Face",
            why="the name is wrong, or the repository is private",
            next_step="check the name; for a private one set HF_TOKEN",
        )
    if kind == "no weights":
        return lacking_weights(name, message.split(", ")).error
    if kind == "RevisionNotFoundError":
        return UsageError(
            f"{name} has no revision {revision}",
            next_step="name a branch, a tag or a commit that the repository has",
        )
    return failure(finished, f"{name} could not be downloaded", "run it again: it goes on there")
