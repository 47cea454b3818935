"""Downloads a model repository from Hugging Face into its cache; the only step that goes online.

    python fetch.py --repo ORG/NAME [--revision REV] [--cache FOLDER] --report FILE

Runs with the controller's interpreter. The result event has `path`, `revision` (the commit) and
`sha256` (file -> what the hub says it is, for the large ones); every failed connection is an error
of kind `unreachable`.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from common.reporting import Reporter, run

ASK_TIMEOUT_SECONDS = 20
SUFFIXES = (".json", ".safetensors", ".model", ".jinja", ".txt", ".tiktoken", ".py")
LICENCES = ("LICENSE", "LICENCE", "NOTICE")
COMMIT = re.compile(r"[0-9a-f]{40}")


def wanted(names: list[str]) -> list[str]:
    """The files a build reads; not the other formats that share a repository."""
    return [
        name
        for name in names
        if (name.endswith(SUFFIXES) or name.startswith(LICENCES))
        and ("/" not in name or name.startswith("additional_chat_templates/"))
        and not name.startswith("consolidated")  # Mistral's second copy of the same weights
    ]


def fetch(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """The result event."""
    import httpx2
    from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    repo, revision, offline = args.repo, args.revision, False
    try:
        # asked first and apart: snapshot_download would take an old snapshot without a word when
        # the hub does not answer
        commit = HfApi().model_info(repo, revision=revision, timeout=ASK_TIMEOUT_SECONDS).sha
        tree = list(HfApi().list_repo_tree(repo, revision=commit, recursive=True))
    except (httpx2.TransportError, OfflineModeIsEnabled):
        if not revision or not COMMIT.fullmatch(revision):
            raise
        # a commit never changes, so the cached one is the one that was asked for
        commit, offline = revision, True
        tree = get_cached_repo_tree(repo, revision=revision, cache_dir=args.cache)
    names = wanted([entry.path for entry in tree])
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
    """The name edgekit knows the error by."""
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
