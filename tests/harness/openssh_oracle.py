"""Gives OpenSSH and edgekit the same files, and compares what both make of them.

Compared are the verdict, and of a connection the user, the addresses and the port that the server
saw, the host key and the key that logged in.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError, UnreachableError, UsageError, VerificationError
from edgekit.fleet.link.remote import SshRemote
from edgekit.fleet.ssh.hostkeys import fingerprint
from tests.harness.openssh_case import Case
from tests.harness.openssh_world import World

ASK = 'printf "%s\\n" "$USER" "$SSH_CONNECTION"; cat "$SSH_USER_AUTH"'
# what ssh says, in the order in which it is looked for
SAYS = {
    "host key": ("Host key verification failed", "Invalid key length", "KnownHostsCommand failed"),
    "login": ("Permission denied",),
    "configuration": (
        *("Bad configuration", "unknown key", "Invalid ", "Bad port", "terminating"),
        *("Cannot execute command-line and remote command", "invalid environment variable"),
        "No such user",
    ),
    "unreachable": (
        *("Connection refused", "Connection closed", "Connection reset", "Could not resolve"),
        *("Cannot assign", "timed out", "Unable to negotiate", "kex_exchange_identification"),
        *("proxy command", "proxy dialer"),
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What one side did; `said` is what it told the user."""

    verdict: str
    user: str = ""
    place: str = ""  # client's address, server's address and port, as the server saw them
    host_key: str = ""
    user_key: str = ""
    said: str = ""

    def seen(self) -> tuple[str, ...]:
        """What has to be equal on both sides."""
        return (self.verdict, self.user, self.place, self.host_key, self.user_key)


@dataclass(frozen=True)
class Compared:
    """A case with both outcomes."""

    case: Case
    openssh: Outcome
    edgekit: Outcome

    @property
    def result(self) -> str:
        """`agree`, `refused` by name where that is announced, or `disagree`."""
        if self.case.refused:
            named = self.case.refused in self.edgekit.said
            no = self.edgekit.verdict in ("host key", "configuration")
            return "refused" if named and no and self._openssh_goes_on() else "disagree"
        return "agree" if self.openssh.seen() == self.edgekit.seen() else "disagree"

    def _openssh_goes_on(self) -> bool:
        return self.openssh.verdict != self.edgekit.verdict

    def row(self) -> str:
        """One line of the table."""
        key = self.openssh.host_key[:18]
        return (
            f"{self.result:9} {self.openssh.verdict:14} {self.edgekit.verdict:14} "
            f"{key:19} {self.case.name}"
        )


def compare(case: Case, world: World, folder: Path) -> Compared:
    """Run a case on both sides; edgekit first, since it writes nothing."""
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    fill = {"DIR": str(folder), "HOME": str(home)}
    config = home / ".ssh" / "config"
    config.write_text(world.fill(case.config, **fill))
    for name, text in {"known": case.known, **case.files}.items():
        path = folder / world.fill(name, **fill)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(world.fill(text, **fill).encode("latin-1"))
        path.chmod(0o755 if text.startswith("#!") else 0o600)
    if case.prepare is not None:
        case.prepare(folder, world.folder)
    environment = {"HOME": str(home), "SSH_AUTH_SOCK": world.words["AGENT"] if case.agent else ""}
    environment["MINE"] = str(folder)
    ours = _edgekit(world.fill(case.destination, **fill), environment)
    theirs = _openssh(
        [world.fill(word, **fill) for word in case.ssh or (case.destination,)], config, environment
    )
    if not ours.host_key:  # it does not say which key it saw: then only verdicts are compared
        theirs = Outcome(theirs.verdict, said=theirs.said)
    return Compared(case, theirs, ours)


def _openssh(arguments: list[str], config: Path, environment: dict[str, str]) -> Outcome:
    argv = ["ssh", "-v", "-F", str(config), "-o", "BatchMode=yes", *arguments, ASK]
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )
    said = done.stderr.decode("utf-8", "replace")
    host_key = re.findall(r"Server host (?:key|certificate): \S+ (\w+:[^\s,]+)", said)
    key = host_key[-1] if host_key else ""
    if done.returncode == 0:
        return _connected(done.stdout, key, said)
    verdict = next((name for name, words in SAYS.items() if any(w in said for w in words)), "other")
    return Outcome(verdict, host_key=key if verdict == "host key" else "", said=said)


def _edgekit(destination: str, environment: dict[str, str]) -> Outcome:
    kinds = {
        VerificationError: "host key",
        UsageError: "configuration",
        UnreachableError: "unreachable",
        EdgekitError: "login",
    }
    with _environment(environment):
        try:
            remote = SshRemote(destination)
        except EdgekitError as error:
            verdict = next(name for kind, name in kinds.items() if isinstance(error, kind))
            shown = re.search(r"presents \S+ (\S+?)(;|$)", error.why)
            return Outcome(verdict, host_key=shown[1] if shown else "", said=str(error))
        try:
            done = remote.run(("sh", "-c", ASK))
            shown_key = remote._connection.transport.get_remote_server_key()
            return _connected(done.stdout, fingerprint(shown_key.asbytes()), "")
        finally:
            remote.close()


def _connected(stdout: bytes, host_key: str, said: str) -> Outcome:
    user, connection, *keys = stdout.decode().splitlines()
    client, _, server, port = connection.split()
    return Outcome("connected", user, f"{client} {server} {port}", host_key, " ".join(keys), said)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
