"""`key`: the keys that a project signs with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgekit import keyfile
from edgekit.cli import project, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.cli.release.trust import (
    KeyOption,
    SignerOption,
    present,
    say_waits,
    signers_of,
    trust_of,
)
from edgekit.errors import UsageError
from edgekit.signing import manage
from edgekit.signing.manage import Trust
from edgekit.signing.roles import releases_in

app = typer.Typer(
    no_args_is_help=True,
    help="The keys that a project signs with: root, targets, online.\n\nroot says which keys there "
    "are, targets signs releases, online signs snapshot and timestamp at each push."
    "\n\n\b\nExample:  edgekit key list",
)

RoleArgument = Annotated[str, typer.Argument(help="root, targets or online.")]
PublicArgument = Annotated[
    Path | None,
    typer.Argument(help="PEM file of a public key; default: make a new key on this machine."),
]


def _trust(folder: Path | None) -> Trust:
    return trust_of(project.find(folder).folder)


def _done(said: str, waits: list[str], as_json: bool) -> None:
    if as_json:
        render.print_json({"done": said, "published": not waits, "waits": waits})
        return
    render.say(said)
    say_waits(waits)


@app.command("list")
def list_(project_folder: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show the keys of each role, where they are, and when the metadata expires.

    \b
    Example:  edgekit key list
    """
    report = manage.report(_trust(project_folder), present())
    if as_json:
        render.print_json(msgspec.to_builtins(report))
        return
    for key in report.keys:
        role = key.role or "unused"
        render.say(f"{role:<8} {key.keyid[:12]}  {key.file or 'not on this machine'}")
    for role, needed in report.thresholds.items():
        have = sum(key.role == role for key in report.keys)
        render.say(f"signs    {needed} of {have} for {role}")
    for name, date in report.expires.items():
        render.say(f"expires  {date}  {name}.json")
    say_waits(report.waits)
    for warning in report.warnings:
        render.warn(warning)
    here = {key.role for key in report.keys if key.file}
    if offline := [role for role in ("root", "targets") if role in here]:
        render.say(
            f"offline  {' and '.join(offline)} can be kept elsewhere: "
            f"`edgekit key export {offline[0]} /media/usb`"
        )


@app.command()
def rotate(
    role: RoleArgument,
    public: PublicArgument = None,
    old: Annotated[str, typer.Option(help="Id of the key to replace, if there are several.")] = "",
    keys: KeyOption = None,
    signer: SignerOption = "",
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a new key in the place of an old one; the new root is signed by old and new.

    \b
    Example:  edgekit key rotate root --key /media/usb/root.pem
    """
    trust = _trust(project_folder)
    given = keyfile.load_public(public) if public else None
    with render.working("signing"):
        waits = manage.rotate(
            trust, signers_of(trust, keys, signer), present(), role, old=old, public=given
        )
    _done(f"rotated  {role}", waits, as_json)


@app.command()
def add(
    role: RoleArgument,
    public: PublicArgument = None,
    keys: KeyOption = None,
    signer: SignerOption = "",
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a role another key, such as that of a second person.

    \b
    Example:  edgekit key add targets ada.public.pem
    """
    trust = _trust(project_folder)
    given = keyfile.load_public(public) if public else None
    with render.working("signing"):
        waits = manage.add(trust, signers_of(trust, keys, signer), present(), role, given)
    _done(f"added    a key to {role}", waits, as_json)


@app.command()
def revoke(
    keyid: Annotated[str, typer.Argument(help="The id of the key, or its start.")],
    keys: KeyOption = None,
    signer: SignerOption = "",
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a key from its role: what it signs from now on is refused.

    \b
    Example:  edgekit key revoke 3f9a7c01b2d4
    """
    trust = _trust(project_folder)
    with render.working("signing"):
        waits = manage.revoke(trust, signers_of(trust, keys, signer), present(), keyid)
    _done(f"revoked  {keyid}", waits, as_json)


@app.command()
def threshold(
    role: RoleArgument,
    count: Annotated[int, typer.Argument(metavar="N", help="How many keys must sign.")],
    keys: KeyOption = None,
    signer: SignerOption = "",
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how many keys of a role have to sign together.

    \b
    Example:  edgekit key threshold targets 2
    """
    trust = _trust(project_folder)
    with render.working("signing"):
        waits = manage.threshold(trust, signers_of(trust, keys, signer), present(), role, count)
    _done(f"signs    {count} for {role}", waits, as_json)


@app.command()
def sign(
    keys: KeyOption = None,
    signer: SignerOption = "",
    discard: Annotated[
        bool, typer.Option("--discard", help="Drop the change instead; nothing is published.")
    ] = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add this machine's signatures to a change that waits for them (trust/pending.json).

    \b
    Example:  edgekit key sign --key /media/usb/targets.pem
    """
    trust = _trust(project_folder)
    if discard:
        dropped = manage.discard(trust)
        _done("dropped  the change" if dropped else "nothing  waited", [], as_json)
        return
    for line in [] if as_json else _contents(trust):
        render.say(line)
    with render.working("signing"):
        waits = manage.sign_pending(trust, signers_of(trust, keys, signer), present())
    _done("signed   and published" if not waits else "signed   in part", waits, as_json)


def _contents(trust: Trust) -> list[str]:
    """What the change that waits would say; it is shown before it is signed."""
    pending = trust.folder.pending()
    if pending is None:
        return []
    root, targets = pending.parsed()
    lines = []
    if root:
        roles = root.signed.roles
        lines = [
            f"root     {root.signed.version}: {name} needs {roles[name].threshold} of "
            + ", ".join(keyid[:12] for keyid in roles[name].keyids)
            for name in ("root", "targets", "snapshot")
        ]
    if targets:
        before = trust.folder.read().targets_file().signed if trust.folder.exists else None
        known = releases_in(before) if before else {}
        lines += [
            f"release  {digest[:12]}  {release.name}:{release.version}, counter {release.counter}"
            + (f", back from {release.rollback}" if release.rollback else "")
            for digest, release in releases_in(targets.signed).items()
            if known.get(digest) != release
        ]
        lines += [
            f"removes  {digest[:12]}  {release.name}:{release.version}"
            for digest, release in known.items()
            if digest not in releases_in(targets.signed)
        ]
    return lines


@app.command()
def export(
    key: Annotated[str, typer.Argument(help="root, targets, online, or the id of a key.")],
    target: Annotated[Path, typer.Argument(help="A file that does not exist, or a folder.")],
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a private key off this machine; `--key FILE` uses it from there.

    \b
    Example:  edgekit key export root /media/usb
    """
    folder = project.find(project_folder).folder
    if target.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{target} lies in the project",
            "a project is committed and copied, and the private key would go along",
            "name a folder outside of it, such as /media/usb",
        )
    path = manage.export(trust_of(folder), key, target)
    if as_json:
        render.print_json({"file": str(path)})
        return
    render.say(f"moved    {key} to {path}; no copy is left in this project")
    render.say(f"next     keep it offline; --key {path} uses it for one command")
