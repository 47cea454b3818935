"""Downloads a model repository from Hugging Face into its cache; the only step that goes online.

    python fetch.py --repo ORG/NAME [--revision REV] [--cache FOLDER] --report FILE

Runs with the controller's interpreter. The result event has `path`, `revision` (the commit) and
`sha256` (file -> sha256 that the hub lists, for large files). Every failed connection is an error
of kind `unreachable`. A repository without weights that a build reads is one of kind `no weights`,
whose message lists the files that have weights.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from common.reporting import Reporter, ScriptError, run

ASK_TIMEOUT_SECONDS = 20
SUFFIXES = (".json", ".safetensors", ".model", ".jinja", ".txt", ".tiktoken", ".py")
LICENCES = ("LICENSE", "LICENCE", "NOTICE")
COMMIT = re.compile(r"[0-9a-f]{40}")


def wanted(names: list[str]) -> list[str]:
    """The files that a build reads, without the other formats in the same repository."""
    return [
        name
        for name in names
        if (name.endswith(SUFFIXES) or name.startswith(LICENCES))
        and ("/" not in name or name.startswith("additional_chat_templates/"))
        and not name.startswith("consolidated")  # Mistral's second copy of the same weights
    ]


def other_weights(names: list[str]) -> list[str]:
    """The files with weights that no build reads from a repository."""
    left = set(names) - set(wanted(names))
    return sorted(n for n in left if n.endswith((".safetensors", ".bin", ".pth", ".gguf")))


def fetch(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Download the repository; return the result event."""
    import httpx2
    from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    repo, revision, offline = args.repo, args.revision, False
    try:
        # the commit is asked first and separately: when the hub does not answer, snapshot_download
        # would silently take an old snapshot
        commit = HfApi().model_info(repo, revision=revision, timeout=ASK_TIMEOUT_SECONDS).sha
        tree = list(HfApi().list_repo_tree(repo, revision=commit, recursive=True))
    except (httpx2.TransportError, OfflineModeIsEnabled):
        if not revision or not COMMIT.fullmatch(revision):
            raise
        # a commit never changes, so the cached copy is the requested one
        commit, offline = revision, True
        tree = get_cached_repo_tree(repo, revision=revision, cache_dir=args.cache)
    names = wanted([entry.path for entry in tree])
    if not any(name.endswith(".safetensors") for name in names):
        raise ScriptError("no weights", ", ".join(other_weights([e.path for e in tree])))
    reporter.progress(f"downloading {repo}")
    path = snapshot_download(
        repo,
        revision=commit,
        cache_dir=args.cache,
        allow_patterns=names,
        local_files_only=offline,
    )
    large = {entry.path: getattr(entry, "lfs", None) for entry in tree}
    sha256 = {name: large[name].sha256 for name in names if large[name]}
    return {"path": path, "revision": commit, "sha256": sha256}


def kind_of(error: Exception) -> str:
    """The stable word for an exception."""
    import httpx2
    from huggingface_hub.errors import (
        CachedRepoTreeNotFoundError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    unreachable = (
        httpx2.TransportError,
        OfflineModeIsEnabled,
        CachedRepoTreeNotFoundError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
    )
    return "unreachable" if isinstance(error, unreachable) else type(error).__name__


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--repo", required=True)
    parser.add_argument("--revision")
    parser.add_argument("--cache", type=Path)
    run(parser, fetch, kind_of)
