"""What can sign here: private keys in files, and a program that has a key of its own.

The program gets the bytes to sign on its standard input and prints the Ed25519 signature (RFC 8032)
as 128 hex digits. A signature that does not verify is never used.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature
from tuf.api.metadata import Metadata

from edgekit import keyfile
from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.keyfile import SigningKey

PROVENANCE_KEY = "signing.pem"  # of `edgekit.bundle.sign`: it signs where a model comes from
SIGNER_SECONDS = 120.0  # a token may have to be touched
_SIGNATURE = re.compile(rb"[0-9A-Fa-f]{128}")


class KeyFolder:
    """The private keys of a project that are on this machine.

    Args:
        folder: `.edgekit/keys`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def held(self) -> dict[str, Path]:
        """The files of the keys, by key id.

        Raises:
            UsageError: a file is no usable key; says which.
        """
        found = {}
        for path in sorted(self.folder.glob("*.pem")):
            if path.name != PROVENANCE_KEY:
                found[keyfile.load(path, "").public_key.keyid] = path
        return found

    def make(self, role: str) -> SigningKey:
        """Make another key for a role; its file has a name of its own."""
        self._tidy()
        key = SigningKey.generate_ed25519()
        path = self.folder / f"{role}-{key.public_key.keyid[:8]}.pem"
        keyfile.write(path, key)
        return key

    def first(self, role: str) -> SigningKey:
        """The first key of a role, `ROLE.pem`; made unless it is there."""
        self._tidy()
        path = self.folder / f"{role}.pem"
        keyfile.make(path)
        return keyfile.load(path, f"{role} has no key")

    def _tidy(self) -> None:
        """Remove what a kill left of a key that was never finished; the caller holds the lock."""
        for path in self.folder.glob(".*.pem.*.tmp"):
            if not path.name.startswith(f".{PROVENANCE_KEY}."):  # of a pack that may be at work
                path.unlink(missing_ok=True)

    def retire(self, keyid: str) -> None:
        """Move a key that signs nothing any more to `retired/`."""
        path = self.held().get(keyid)
        if path is not None:
            old = self.folder / "retired"
            old.mkdir(mode=0o700, exist_ok=True)
            path.rename(old / f"{path.stem}-{keyid[:8]}.pem")


class Signers:
    """Everything that may sign for one command.

    The project's keys are read when something is signed: another command may just have made or
    replaced them.

    Args:
        keys: the project's keys on this machine.
        files: private keys from elsewhere, for this command alone.
        command: the program that signs; empty for none.
    """

    def __init__(self, keys: KeyFolder, files: Sequence[Path] = (), command: str = "") -> None:
        self._keys = keys
        self._command = command
        self._files: dict[str, tuple[Path, SigningKey]] = {}
        for path in files:
            key = keyfile.load(path, "the key is not there", portable=True)
            self._files[key.public_key.keyid] = path, key

    def has(self, keyid: str) -> bool:
        """Whether this key's private half is here."""
        return keyid in self._files or keyid in self._keys.held()

    def sign(self, file: Metadata[Any], keys: Sequence[Key], threshold: int) -> None:
        """Add the signatures of those of `keys` that can sign here.

        Raises:
            EdgekitError: the program failed, or gave no signature in time.
            VerificationError: what it gave is no signature by one of `keys`.
        """
        held = self._keys.held()
        for key in keys:
            if key.keyid in self._files:
                file.sign(self._files[key.keyid][1], append=True)
            elif key.keyid in held:
                file.sign(keyfile.load(held[key.keyid], ""), append=True)
        present = sum(key.keyid in file.signatures for key in keys)
        if self._command and present < threshold:
            signature = _ask(self._command, file.signed_bytes, keys)
            file.signatures[signature.keyid] = signature

    def check_files(self, known: Container[str]) -> None:
        """Refuse a key file whose key no role has, or that is damaged; raises UsageError."""
        self._keys.held()  # of the project's own files, too: a refusal comes before a new key
        for keyid, (path, _) in self._files.items():
            if keyid not in known:
                raise UsageError(
                    f"{path} signs nothing here",
                    f"its key {keyid[:12]} is none of this project's",
                    "`edgekit key list` shows the keys of each role",
                )


def _ask(command: str, data: bytes, keys: Sequence[Key]) -> Signature:
    """Have a program sign; return the signature, verified, with the id of its key."""
    printed = _run(command, data)
    if not _SIGNATURE.fullmatch(printed):
        raise VerificationError(
            f"the signer {command!r} did not print a signature",
            f"a signature is 128 hex digits; it printed {printed[:60]!r}",
            "it gets the bytes on its standard input, and prints an Ed25519 signature",
        )
    for key in keys:
        signature = Signature(key.keyid, printed.decode().lower())
        try:
            key.verify_signature(signature, data)
        except UnverifiedSignatureError:
            continue
        return signature
    raise VerificationError(
        f"the signature of {command!r} is by none of the keys that have to sign",
        f"these are {', '.join(key.keyid[:12] for key in keys)}",
        "`edgekit key add ROLE PUBLIC.pem` makes its key one of them",
    )


def _run(command: str, data: bytes) -> bytes:
    try:
        argv = shlex.split(command)
        done = subprocess.run(
            argv, input=data, capture_output=True, timeout=SIGNER_SECONDS, check=False
        )
    except (ValueError, IndexError) as error:  # an open quote, or nothing
        raise UsageError(
            f"--signer {command!r} is no command",
            str(error),
            next_step="write it as a shell would read it",
        ) from error
    except subprocess.TimeoutExpired:
        raise EdgekitError(
            f"the signer {command!r} gave no signature within {SIGNER_SECONDS:g} s",
            next_step="run it again; nothing was changed",
        ) from None
    except OSError as error:
        raise EdgekitError(
            f"the signer {command!r} cannot be started", str(error), "check its path and its rights"
        ) from error
    if done.returncode != 0:
        raise EdgekitError(
            f"the signer {command!r} failed with {done.returncode}",
            done.stderr.decode("utf-8", "replace").strip()[-300:],
            "nothing was changed",
        )
    return done.stdout.strip()
