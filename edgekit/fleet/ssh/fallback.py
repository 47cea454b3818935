"""The ssh configuration where OpenSSH is not installed: paramiko's parser, and refusals by name.

paramiko skips what it does not know, so every keyword that it may skip is looked for first.
"""

from __future__ import annotations

import getpass
import re
import shlex
from contextlib import suppress
from pathlib import Path

import paramiko

from edgekit.errors import UsageError
from edgekit.fleet.ssh.destination import Destination
from edgekit.fleet.ssh.settings import Values

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_LISTS = frozenset({"userknownhostsfile", "globalknownhostsfile"})
_READ = _LISTS | set(
    re.findall(
        r"\w+",
        """
        host hostname user port identityfile identitiesonly certificatefile hostkeyalias
        stricthostkeychecking proxyjump proxycommand connecttimeout addressfamily bindaddress
        checkhostip identityagent hostkeyalgorithms requiredrsasize remotecommand bindinterface
        preferredauthentications pubkeyauthentication
        """,
    )
)
_COMFORT = set(
    re.findall(
        r"\w+",
        """
        addkeystoagent batchmode compression connectionattempts controlmaster controlpath
        controlpersist dynamicforward fingerprinthash forwardagent forwardx11 forwardx11trusted
        gssapiauthentication gssapidelegatecredentials hashknownhosts ipqos
        kbdinteractiveauthentication localforward loglevel passwordauthentication remoteforward
        requesttty sendenv serveralivecountmax serveraliveinterval setenv tcpkeepalive
        updatehostkeys usekeychain visualhostkey xauthlocation
        """,
    )
)
DEFAULTS: Values = {
    "port": ("22",),
    "userknownhostsfile": ("~/.ssh/known_hosts ~/.ssh/known_hosts2",),
    "globalknownhostsfile": ("/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2",),
    "identityfile": ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519"),
}


def read_without_openssh(destination: Destination, jumps: str) -> Values:
    """The settings for a destination, in the form of `ssh -G`.

    Raises:
        UsageError: a file cannot be read, or has a keyword that only OpenSSH understands.
    """
    config = paramiko.SSHConfig()
    for file in (Path.home() / ".ssh" / "config", SYSTEM_CONFIG):
        if not file.is_file():
            continue
        try:
            text = file.read_text("utf-8", "surrogateescape")
            _check(text, file)
            config.parse(text.splitlines())
        except (OSError, paramiko.SSHException, ValueError) as error:
            raise UsageError(
                f"{file} cannot be read", str(error), "correct it, or install OpenSSH's client"
            ) from error
    try:
        found = config.lookup(destination.host)
    except (paramiko.SSHException, ValueError, KeyError) as error:
        raise UsageError(
            f"ssh:{destination.host} cannot be used", str(error), "correct ~/.ssh/config"
        ) from error
    values = dict(DEFAULTS)
    with suppress(OSError, KeyError):  # an account without a name
        values["user"] = (getpass.getuser(),)
    for key, value in found.items():
        values[key] = tuple(value) if isinstance(value, list) else (value or "none",)
    told = {"user": destination.user, "port": str(destination.port or ""), "proxyjump": jumps}
    return values | {key: (value,) for key, value in told.items() if value}


def _check(text: str, file: Path) -> None:
    """Refuse what paramiko would skip; raises UsageError that names file, line and keyword."""
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"\s*(\w+)(?:\s*=\s*|\s+)(.*)", line)
        if found is None or line.lstrip().startswith("#"):
            continue
        key, value = found[1].lower(), found[2].strip()
        nothing = key == "include" and not any(_included(value, file))
        if nothing or key in _COMFORT or (key in _READ and not _quoted_list(key, value)):
            continue
        raise UsageError(
            f"{file}:{number} has {found[1]}, which edgekit cannot read without OpenSSH",
            "`ssh` is not installed here; skipping the line could lead to another host or key",
            "install OpenSSH's client (Debian: openssh-client), or take the line out",
        )


def _included(value: str, file: Path) -> list[str]:
    found: list[str] = []
    for word in shlex.split(value):
        pattern = file.parent / Path(word).expanduser()
        found += map(str, Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    return found


def _quoted_list(key: str, value: str) -> bool:
    return key in _LISTS and '"' in value
