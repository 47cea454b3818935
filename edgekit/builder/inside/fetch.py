"""Downloads a model repository from Hugging Face into its cache; the only step that goes online.

    python fetch.py --repo ORG/NAME [--revision REV] [--cache FOLDER] --report-fd N

Reports `{"event": "result", "path": …, "revision": COMMIT}` or
`{"event": "error", "kind": …, "message": …}`; every failed connection is of kind `unreachable`.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

ASK_TIMEOUT_SECONDS = 20
SUFFIXES = (".json", ".safetensors", ".model", ".jinja", ".txt", ".tiktoken", ".py")
COMMIT = re.compile(r"[0-9a-f]{40}")


def wanted(names: list[str]) -> list[str]:
    """The files a build reads; not the other formats that share a repository."""
    return [
        name
        for name in names
        if name.endswith(SUFFIXES)
        and ("/" not in name or name.startswith("additional_chat_templates/"))
        and not name.startswith("consolidated")  # Mistral's second copy of the same weights
    ]


def fetch(repo: str, revision: str | None, cache: Path | None) -> tuple[str, str]:
    """Returns the snapshot's folder and its commit."""
    import httpx2
    from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        # asked first and apart: snapshot_download would take an old snapshot without a word when
        # the hub does not answer
        info = HfApi().model_info(repo, revision=revision, timeout=ASK_TIMEOUT_SECONDS)
        commit, names, offline = info.sha, [file.rfilename for file in info.siblings], False
    except (httpx2.TransportError, OfflineModeIsEnabled):
        if not revision or not COMMIT.fullmatch(revision):
            raise
        # a commit never changes, so the cached one is the one that was asked for
        tree = get_cached_repo_tree(repo, revision=revision, cache_dir=cache)
        commit, names, offline = revision, [file.path for file in tree], True
    path = snapshot_download(
        repo,
        revision=commit,
        cache_dir=cache,
        allow_patterns=wanted(names),
        local_files_only=offline,
    )
    return path, commit


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repo", required=True)
    parser.add_argument("--revision")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--report-fd", type=int, required=True)
    args = parser.parse_args()

    def report(**event: object) -> None:
        os.write(args.report_fd, (json.dumps(event) + "\n").encode())

    try:
        path, commit = fetch(args.repo, args.revision, args.cache)
    except Exception as error:  # whatever the hub's client raises is the reason we pass on
        message = str(error).strip().splitlines()
        report(event="error", kind=kind_of(error), message=message[0] if message else "")
        sys.exit(1)
    report(event="result", path=path, revision=commit)


if __name__ == "__main__":
    main()
