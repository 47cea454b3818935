"""SSH without OpenSSH's client, endless jumps, and connections that leave nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, UnreachableError, UsageError, VerificationError
from edgekit.fleet.link.remote import SshRemote
from tests import tools

pytestmark = pytest.mark.timeout(60)
Configure = Callable[[str], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tools.Sshd]:
    with tools.sshd(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture
def configure(server: tools.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Writes ~/.ssh/config; `@BOX@` stands for what leads to the server."""
    (tmp_path / ".ssh").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", "")
    box = (
        f"HostName 127.0.0.1\nPort {server.port}\nIdentityFile {server.identity}\n"
        f"UserKnownHostsFile {server.known_hosts}\n"
    )

    def write(text: str) -> None:
        (tmp_path / ".ssh" / "config").write_text(text.replace("@BOX@", box))

    return write


@pytest.fixture
def without_openssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH without `ssh`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(programs))


def hello(destination: str = "box") -> bytes:
    remote = SshRemote(destination)
    try:
        return remote.run(("echo", "hello")).stdout
    finally:
        remote.close()


@pytest.mark.usefixtures("without_openssh")
def test_a_plain_configuration_needs_no_openssh(configure: Configure) -> None:
    configure("# mine\nHost box\n@BOX@\nHost *\n  ServerAliveInterval 10\n  Compression yes\n")
    assert hello() == b"hello\n"
    configure("Host jump\n@BOX@\nHost box\n@BOX@\nProxyJump jump\n")
    assert hello() == b"hello\n"
    configure("Host box\n@BOX@\nHostKeyAlias nowhere\nStrictHostKeyChecking no\n")
    with pytest.raises(VerificationError, match="nowhere is unknown"):
        hello()


@pytest.mark.usefixtures("without_openssh")
@pytest.mark.parametrize(
    "line",
    [
        "Match all",
        "Include config.d/*",
        "CanonicalizeHostname yes",
        "RevokedHostKeys /etc/ssh/revoked",
        "KnownHostsCommand /bin/cat /x",
        "ProxyUseFdpass yes",
        "Ciphers aes128-ctr",
        "NoSuchKeyword x",
        'UserKnownHostsFile "/a b"',
    ],
)
def test_without_openssh_what_would_be_skipped_is_refused_by_name(
    configure: Configure, tmp_path: Path, line: str
) -> None:
    (tmp_path / ".ssh" / "config.d").mkdir()
    (tmp_path / ".ssh" / "config.d" / "x").touch()
    configure(f"Host box\n@BOX@\n{line}\n")
    with pytest.raises(UsageError) as caught:
        hello()
    keyword = line.partition(" ")[0]
    assert f"config:7 has {keyword}" in caught.value.what
    assert "openssh-client" in caught.value.next_step


@pytest.mark.usefixtures("without_openssh")
def test_without_openssh_an_include_of_nothing_is_no_matter(configure: Configure) -> None:
    configure("Include nothing/*.conf\nHost box\n@BOX@\n")
    assert hello() == b"hello\n"


@pytest.mark.parametrize(
    "config", ["Host *\n@BOX@\nProxyJump jump\n", "Host box\n@BOX@\nProxyJump box\n"]
)
def test_a_jump_host_that_jumps_by_itself_is_refused_by_name(
    configure: Configure, config: str
) -> None:
    configure(config)
    began = time.monotonic()
    with pytest.raises(UsageError, match="leads back to where it started"):
        hello()
    assert time.monotonic() - began < 30


def test_an_error_of_a_jump_host_names_the_jump_host(configure: Configure, tmp_path: Path) -> None:
    port = tools.free_port()
    configure(f"Host jump\n@BOX@\nHost box\n@BOX@\nProxyJump jump:{port}\n")
    with pytest.raises(UnreachableError, match="jump cannot be reached"):
        hello()
    configure("Host jump\nUser nobody-here\n@BOX@\nHost box\n@BOX@\nProxyJump jump\n")
    with pytest.raises(EdgekitError, match="jump does not let us in as nobody-here"):
        hello()


def test_a_proxycommand_ends_with_its_connection(configure: Configure, tmp_path: Path) -> None:
    script = tmp_path / "forward"
    script.write_text(
        f"#!{sys.executable}\nimport os, pathlib, signal, subprocess, sys\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "import select, socket\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "while True:\n"
        "    for r in select.select([0, s], [], [])[0]:\n"
        "        d = os.read(0, 65536) if r == 0 else s.recv(65536)\n"
        "        s.sendall(d) if r == 0 else os.write(1, d)\n"
    )
    script.chmod(0o755)
    configure(f"Host box\n@BOX@\nProxyCommand {script} %h %p\n")
    assert hello() == b"hello\n"
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_proxycommand_that_fails_says_why(configure: Configure) -> None:
    configure("Host box\n@BOX@\nProxyCommand echo the bastion is closed >&2; exit 1\n")
    with pytest.raises(UnreachableError) as caught:
        hello()
    assert "the bastion is closed" in caught.value.why


def test_a_match_exec_that_hangs_is_ended(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.fleet.ssh.openssh.DUMP_SECONDS", 0.5)
    configure('Match exec "sleep 5"\n  Port 1\nHost box\n@BOX@\n')
    with pytest.raises(UsageError, match="did not end within"):
        hello()


def test_the_home_is_what_the_environment_says(
    configure: Configure, server: tools.Sshd, tmp_path: Path
) -> None:
    """OpenSSH takes the account's home; edgekit follows $HOME in all of its files."""
    config = f"Host box\nHostName 127.0.0.1\nPort {server.port}\n"
    shutil.copy(server.identity, tmp_path / ".ssh" / "id_ed25519")
    configure(config)
    with pytest.raises(VerificationError, match="is unknown"):
        hello()
    shutil.copy(server.known_hosts, tmp_path / ".ssh" / "known_hosts")
    assert hello() == b"hello\n"
    shutil.move(tmp_path / ".ssh" / "known_hosts", tmp_path / "mine")
    configure(f"{config}UserKnownHostsFile /nowhere/x ~/mine\n")
    assert hello() == b"hello\n"


def test_a_wrong_configuration_is_told_in_openssh_words(configure: Configure) -> None:
    configure("Host box\n@BOX@\nNoSuchKeyword yes\n")
    with pytest.raises(UsageError) as caught:
        hello()
    assert "nosuchkeyword" in caught.value.why
    assert "line 7" in caught.value.why


def test_known_hosts_of_every_kind_end_in_no_traceback(
    configure: Configure, server: tools.Sshd, tmp_path: Path
) -> None:
    """The three kinds of line that ended every command, by the command itself."""
    text = server.known_hosts.read_bytes()
    public = server.host_key.with_suffix(".pub").read_text()
    before = f"@cert-authority * {public}@revoked other {public}* ssh-ed25519 AAAA!\n\xff\n"
    server.known_hosts.write_bytes(before.encode("latin-1") + text)
    try:
        configure("Host box\n@BOX@\n")
        (tmp_path / "fleet.toml").write_text('[devices.box]\naddress = "ssh:box"\n')
        (tmp_path / "edgekit.toml").write_text("")
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", "state", "box"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert "host key" not in done.stderr
    finally:
        server.known_hosts.write_bytes(text)
