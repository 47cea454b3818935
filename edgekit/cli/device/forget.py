"""`forget`: clear what the broker keeps of devices that are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from edgekit.cli import project, render
from edgekit.cli.options import AccountOption, JsonOption, PasswordFileOption, ProjectOption
from edgekit.cli.talk.ask import BrokerOption
from edgekit.client import devices as find_devices
from edgekit.client import forget as clear
from edgekit.core.config import BrokerConfig, check_name
from edgekit.errors import EdgekitError, PartialError, UsageError

GONE = ("lost", "offline")  # the states of a device that is not connected


def forget(
    device: Annotated[str | None, typer.Argument(help="Name of a device.")] = None,
    all_lost: Annotated[
        bool, typer.Option("--all-lost", help="Every device whose status is `lost`.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also a device that is connected.")
    ] = False,
    username: AccountOption = "",
    password_file: PasswordFileOption = None,
    broker: BrokerOption = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Clear the card and the status that the broker keeps of a device that was removed.

    With the rights of `edgekit broker acl` only the device's own account may do that. The device
    itself, its files and its account stay as they are; once it connects, it announces itself again.

    \b
    Example:  edgekit forget pi-1
              edgekit forget pi-1 --username pi-1 --password-file broker/passwords/pi-1
              edgekit forget --all-lost
    """
    if (device is None) != all_lost:
        raise UsageError(
            "name one device, or use --all-lost",
            next_step="`edgekit devices` shows the devices that the broker knows",
        )
    asked = None if device is None else check_name("device", device)
    here = project.find_or_bare(project_folder, broker=broker)
    at = project.parse_broker(broker, here.broker) if broker else here.broker
    writer = account_of(at, username, password_file)
    render.warn(at.warning)
    with render.working("asking the broker"):
        known = find_devices(at, here.requester)
    if asked is None:
        names = [name for name, kept in known.items() if _state(kept) == "lost"]
    else:
        names = [asked]
        _check_gone(asked, known.get(asked, {}), force=force)
    cleared: dict[str, list[str]] = {}
    failed: dict[str, EdgekitError] = {}
    for name in names:
        try:
            cleared[name] = clear(at, here.requester, name, writer)
        except EdgekitError as error:
            if asked is not None:
                raise
            failed[name] = error
            render.complain(f"{name}: {error}")
    _report(cleared, failed, as_json=as_json)


def _report(
    cleared: dict[str, list[str]], failed: dict[str, EdgekitError], *, as_json: bool
) -> None:
    if as_json:
        errors = {name: error.to_dict() for name, error in failed.items()}
        render.print_json({"forgotten": cleared, "failed": errors})
    else:
        for name, topics in cleared.items():
            what = f"cleared {', '.join(topics)}" if topics else "the broker kept nothing of it"
            render.say(f"{name}: {what}")
        if not cleared and not failed:
            render.say("no device is lost")
    if failed:
        message = f"{len(failed)} devices were not forgotten: {', '.join(failed)}"
        raise PartialError(message) if any(cleared.values()) else EdgekitError(message)


def account_of(base: BrokerConfig, username: str, password_file: Path | None) -> BrokerConfig:
    """The broker with another account, if one is named.

    Raises:
        UsageError: only one of name and file is given, or the file is missing.
    """
    if not username and password_file is None:
        return base
    if not username or password_file is None:
        raise UsageError(
            "--username and --password-file are given together or not at all",
            next_step="give both, or neither for the account of edgekit.toml",
        )
    if not password_file.is_file():
        raise UsageError(
            f"{password_file} is no file", next_step="name a file with the password of --username"
        )
    return msgspec.structs.replace(
        base, username=username, password_file=str(password_file.resolve())
    )


def _state(kept: dict[str, Any]) -> str:
    return str(kept.get("status", {}).get("state", ""))


def _check_gone(device: str, kept: dict[str, Any], *, force: bool) -> None:
    """Refuse a device that is connected, unless it is forced."""
    state = _state(kept)
    if state and state not in GONE and not force:
        raise UsageError(
            f"{device} is not forgotten: it is connected",
            f"its status is `{state}`; it would announce itself again at its next status",
            "stop it first, or say --force",
        )
