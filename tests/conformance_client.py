"""A client for tuf-conformance (github.com/theupdateframework/tuf-conformance): our verifier alone.

The suite is on no package index, so no run of ours starts it. By hand, in a clone of it:

    python -m pytest tuf_conformance --entrypoint "python -m tests.conformance_client"

docs/trust.md has what came of it, and why. The client fetches as a push does, all files at once,
and gives them to `edgekit.trust.metadata.accept`; it has `init` and `refresh`, because a device has
no targets of TUF to download. FAKETIME (an ISO time) stands in for the program faketime.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edgekit.errors import VerificationError
from edgekit.trust.metadata import KeptTrust, accept
from edgekit.trust.signed import Metadata


def fetch(url: str) -> str | None:
    """One file; None if there is none."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            data: bytes = answer.read(8 << 20)
    except urllib.error.HTTPError:
        return None
    return data.decode("utf-8", "surrogateescape")


def versioned(text: str, listed: str) -> str:
    """The name of a file that another one lists, as a repository has it."""
    signed = msgspec.json.decode(text)["signed"]
    return f"{signed['meta'][listed]['version']}.{listed}"


def gather(url: str, version: int) -> Metadata:
    """All files of a repository; the roots from a version on."""
    roots = []
    while (text := fetch(f"{url}/{version + len(roots) + 1}.root.json")) is not None:
        roots.append(text)
    timestamp = fetch(f"{url}/timestamp.json") or ""
    snapshot = fetch(f"{url}/{versioned(timestamp, 'snapshot.json')}") or ""
    targets = fetch(f"{url}/{versioned(snapshot, 'targets.json')}") or ""
    return Metadata(roots, timestamp, snapshot, targets)


def refresh(url: str, folder: Path) -> None:
    """Update the trusted files in a folder, all or none."""
    root = (folder / "root.json").read_text()
    names = ("timestamp", "snapshot", "targets")
    kept = None
    if all((folder / f"{name}.json").exists() for name in names):
        texts = {name: (folder / f"{name}.json").read_text() for name in names}
        kept = KeptTrust(anchor="", root=root, signed_at=0, **texts)
    version = msgspec.json.decode(root)["signed"]["version"]
    said = os.environ.get("FAKETIME")
    clock = datetime.fromisoformat(said).replace(tzinfo=UTC).timestamp() if said else time.time()
    trusted = accept(kept, root, gather(url, version), clock)
    for name in ("root", *names):
        (folder / f"{name}.json").write_text(getattr(trusted, name))


def main() -> int:
    """Run one command of the suite's protocol."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-url")
    parser.add_argument("--metadata-dir", type=Path)
    for name in ("--target-name", "--target-dir", "--target-base-url"):
        parser.add_argument(name)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    asked = parser.parse_args()
    if asked.command == "init":
        (asked.metadata_dir / "root.json").write_bytes(asked.root.read_bytes())
        return 0
    if asked.command == "download":
        return 1
    try:
        refresh(asked.metadata_url.rstrip("/"), asked.metadata_dir)
    except (VerificationError, msgspec.MsgspecError, KeyError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
