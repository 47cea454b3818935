"""Asks the installed OpenSSH what its configuration says of a destination, with `ssh -G`.

So Include, Match, CanonicalizeHostname and every other rule of ssh_config(5) hold by construction.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from edgekit.errors import UnreachableError, UsageError
from edgekit.fleet.ssh.destination import Destination
from edgekit.fleet.ssh.fallback import DEFAULTS, read_without_openssh
from edgekit.fleet.ssh.settings import (
    SshSettings,
    Values,
    check_settings_can_be_honoured,
    parse_dump,
)

DUMP_SECONDS = 60  # `Match exec` and a slow name server take part in it
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")


def settings_of(destination: Destination, jumps: str = "") -> SshSettings:
    """The settings for a destination, by `ssh -G`, or by a plain parser without OpenSSH.

    Args:
        destination: what the user named.
        jumps: the hosts to jump through, in the form of `ssh -J`; empty: as the files say.

    Raises:
        UsageError: the configuration cannot be read, or asks for what edgekit cannot do.
        UnreachableError: CanonicalizeHostname finds no host of this name.
    """
    if shutil.which("ssh") is None:
        values, defaults = read_without_openssh(destination, jumps), DEFAULTS
    else:
        values, defaults = _dump(destination, jumps), _defaults()
    settings = SshSettings(destination.host, values, defaults, {}, os.environ, str(Path.home()))
    check_settings_can_be_honoured(settings)
    return SshSettings(
        destination.host, values, defaults, _tokens(settings), os.environ, str(Path.home())
    )


@contextmanager
def login_words(destination: Destination) -> Iterator[list[str]]:
    """The last words of `ssh` for a destination, with the files that edgekit reads."""
    argv = ["-l", destination.user] if destination.user else []
    argv += ["-p", str(destination.port)] if destination.port else []
    with _config_of_another_home() as config:
        yield [*argv, *config, "--", destination.host]


def _dump(destination: Destination, jumps: str) -> Values:
    argv = ["ssh", "-G", *(["-J", jumps] if jumps else [])]
    try:
        with login_words(destination) as words:
            done = _run([*argv, *words])
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"{destination.host}: `ssh -G` did not end within {DUMP_SECONDS} s",
            "a `Match exec` of the ssh configuration or a name server may hang",
            f"run `ssh -G {destination.host}` to see it",
        ) from None
    if done.returncode != 0:
        why = _reasons(done.stderr)
        if "Could not resolve" in why:  # CanonicalizeHostname asks the name servers
            raise UnreachableError(
                f"{destination.host} cannot be reached", why, "check its name and the network"
            )
        raise UsageError(
            f"ssh:{destination.host} cannot be used",
            why,
            "correct the address in fleet.toml, or the ssh configuration",
        )
    return _of_this_home(parse_dump(done.stdout.decode("utf-8", "surrogateescape")))


def _of_this_home(values: Values) -> Values:
    """Make the `~` of UserKnownHostsFile $HOME: `ssh -G` has put the account's home for it."""
    own, home = _account_home(), Path.home()
    if own is None or own == home:
        return values
    key, pattern = "userknownhostsfile", re.compile(f"(^| ){re.escape(str(own))}/")
    files = values.get(key, ())
    return values | {key: tuple(pattern.sub(lambda m: f"{m[1]}{home}/", v) for v in files)}


def _account_home() -> Path | None:
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _reasons(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").splitlines()
    return "; ".join(line for line in lines if not line.startswith("Pseudo-terminal"))[-500:]


def _run(argv: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=DUMP_SECONDS, check=False
    )


@contextmanager
def _config_of_another_home() -> Iterator[list[str]]:
    """Options for an OpenSSH whose own idea of the home is not $HOME.

    OpenSSH reads ~/.ssh/config of the account, whatever $HOME says. It may read its files twice,
    so this one cannot be a pipe.
    """
    home = Path.home()
    if home == _account_home():
        yield []
        return
    files = (glob.escape(str(home / ".ssh" / "config")), str(SYSTEM_CONFIG))
    with tempfile.NamedTemporaryFile("w", suffix=".ssh_config") as config:
        config.write("".join(f'Host *\nInclude "{file}"\n' for file in files))
        config.flush()
        yield ["-F", config.name]


@cache
def _defaults() -> Values:
    """The values of this OpenSSH without any file."""
    done = _run(["ssh", "-G", "-F", "none", "--", "localhost"])
    return _of_this_home(parse_dump(done.stdout.decode("utf-8", "surrogateescape")))


def _tokens(settings: SshSettings) -> dict[str, str]:
    """The % tokens that every file name may have; %C and %j differ between versions of OpenSSH."""
    host = socket.gethostname()
    try:
        account = pwd.getpwuid(os.getuid())
        user, home = account.pw_name, account.pw_dir
    except KeyError:
        user, home = "", settings.home
    return {
        "%": "%",
        "d": home,
        "h": settings.host,
        "i": str(os.getuid()),
        "k": settings.one("hostkeyalias") or settings.named,
        "L": host.partition(".")[0],
        "l": host,
        "n": settings.named,
        "p": str(settings.port),
        "r": settings.user,
        "u": user,
    }
