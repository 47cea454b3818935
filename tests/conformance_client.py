"""A client for tuf-conformance (github.com/theupdateframework/tuf-conformance): two in one.

The suite is on no package index, so no run of ours starts it. By hand, in a clone of it whose
`new_signer` says ed25519:

    python -m pytest tuf_conformance --entrypoint "python -m tests.conformance_client"

python-tuf's own client works in the suite's folder, and our verifier in one beside it, at the same
repository. `refresh` ends as python-tuf's does, or with 3 where the two do not agree; a test that
passes has shown that ours takes and refuses the same. Ours alone cannot pass: the suite also looks
for files that were stored before a refusal, and ours stores all or none. FAKETIME (an ISO time)
stands in for the program faketime. docs/trust.md has what came of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient import Updater

from edgekit.errors import VerificationError
from edgekit.trust.metadata import KeptTrust, accept
from edgekit.trust.signed import Metadata


def now() -> datetime:
    """The time that the suite wants."""
    said = os.environ.get("FAKETIME")
    return datetime.fromisoformat(said).replace(tzinfo=UTC) if said else datetime.now(UTC)


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
    roots: list[str] = []
    while (text := fetch(f"{url}/{version + len(roots) + 1}.root.json")) is not None:
        roots.append(text)
    timestamp = fetch(f"{url}/timestamp.json") or ""
    snapshot = targets = ""
    with suppress(msgspec.MsgspecError, KeyError, ValueError, TypeError):
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
    clock = now().timestamp()
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
    ours = asked.metadata_dir.with_name("ours")
    if asked.command == "init":
        ours.mkdir(exist_ok=True)
        for folder in (asked.metadata_dir, ours):
            (folder / "root.json").write_bytes(asked.root.read_bytes())
        return 0
    if asked.command == "download":
        return 1
    theirs = ended(lambda: updater(asked.metadata_dir, asked.metadata_url).refresh())
    mine = ended(lambda: refresh(asked.metadata_url.rstrip("/"), ours))
    return theirs if theirs == mine else 3


def updater(folder: Path, url: str) -> Updater:
    """python-tuf's client, at the suite's time."""
    made = Updater(str(folder), url, bootstrap=None)
    made._trusted_set.reference_time = now()
    return made


def ended(run: Callable[[], object]) -> int:
    """0, or 1 for an error."""
    try:
        run()
    except (VerificationError, RepositoryError, DownloadError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
