"""What real accounts are like: their shells, login scripts, limits and links, by a real sshd."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet.facts import PROBE, DeviceFacts, parse_facts
from edgekit.fleet.link import session
from edgekit.fleet.link.remote import SshRemote
from tests import tools
from tests.contract.test_remote import HOSTILE
from tests.harness.ssh_account import Login, logged_in

pytestmark = pytest.mark.timeout(120)

SHELLS = {
    "dash": "dash",
    "bash": "bash",
    "rbash": "rbash",
    "tcsh": "tcsh",
    "csh": "csh",
    "fish": "fish",
    "busybox": "busybox sh",
}
COMMAND = '-c "$SSH_ORIGINAL_COMMAND"'
PLAIN = f"exec sh {COMMAND}"
GREETING = 'Welcome to the device!  3.11 B\\0\\0 {"root": 1}'


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """The account; each test says what its login does."""
    with logged_in(tmp_path_factory.mktemp("account")) as login:
        yield login


@contextmanager
def connected(python: str = "python3") -> Iterator[SshRemote]:
    with closing(SshRemote("device", python)) as remote:
        yield remote


def facts(remote: SshRemote, root: str = "") -> DeviceFacts:
    return parse_facts(remote.run(("python3", "-", root), PROBE.read_bytes()).stdout)


def greet(home: Path) -> None:
    """Login scripts that print on both outputs, without a last newline."""
    text = f"printf '%s' '{GREETING}'"
    (home / ".bashrc").write_text(f"{text}\n{text} >&2\n")
    (home / ".cshrc").write_text(f"{text}\nsh -c \"echo noise >&2\"\nset prompt='> '\n")
    (home / ".config" / "fish").mkdir(parents=True, exist_ok=True)
    (home / ".config" / "fish" / "config.fish").write_text(f"{text}\necho noise >&2\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_push_works_by_every_login_shell_and_whatever_it_prints(
    shell: str, device: Login, tmp_path: Path
) -> None:
    tools.find({"csh": "tcsh"}.get(shell, shell))
    device.runs(f"exec {SHELLS[shell]} {COMMAND}")
    greet(device.home)
    with connected() as remote:
        script = "import sys; print(ascii(sys.argv[1:]))"
        done = remote.run(("python3", "-c", script, *HOSTILE))
        assert done.stdout.decode().strip() == ascii(HOSTILE)
        assert done.stderr == b""
        assert facts(remote).root == str(device.home / ".local/share/edgekit")
        source, target = tmp_path / "source", device.home / f"it's {shell} !$(target) ü.part"
        source.write_bytes(bytes(range(256)) * 4096)
        remote.append(source, str(target), 0, lambda _: None)
        assert target.read_bytes() == source.read_bytes()


def test_all_verbs_of_a_push_pay_one_login(device: Login, tmp_path: Path) -> None:
    device.runs(f"echo >>logins; sleep 1; {PLAIN}")
    (tmp_path / "source").write_bytes(b"x")
    began = time.monotonic()
    with connected() as remote:
        for name in ("a", "b", "c"):
            assert remote.run(("echo", name)).stdout == f"{name}\n".encode()
            remote.append(tmp_path / "source", str(tmp_path / name), 0, lambda _: None)
    assert (device.home / "logins").read_text() == "\n"
    assert 1 < time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'no such thing: python3' >&2; exit 127", "python3 does not run"),
        (f"PATH=/nowhere; exec /bin/sh {COMMAND}", "python3 does not run"),
        ("echo 'Unknown option: -I' >&2; echo 'usage: python3 [option]' >&2; exit 2", "Unknown"),
        ("echo This account is currently not available.; exit 1", "not available"),
        ('echo "unknown command: $SSH_ORIGINAL_COMMAND"; exit 1', "does not run our command"),
        ("exec $SSH_ORIGINAL_COMMAND", "SyntaxError"),
        ("exec yes", "prints without end"),
        ("exit 0", "it printed: nothing"),
        ("kill -9 $$", "does not run our command|ended the session"),
    ],
)
def test_an_account_that_does_not_run_our_command_is_told_what_it_does(
    script: str, said: str, device: Login
) -> None:
    device.runs(script)
    with connected() as remote:
        for _ in range(2):  # a second call has the same reason
            with pytest.raises(EdgekitError, match=said) as raised:
                remote.run(("true",))
            assert raised.value.next_step


@pytest.mark.parametrize("script", ["exec cat", "echo Password:; exec sleep 100"])
def test_a_login_that_waits_ends_with_what_it_printed(
    script: str, device: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An internal-sftp waits like that, and a .bashrc that asks a question."""
    monkeypatch.setattr(session, "LOGIN_SECONDS", 3.0)
    device.runs(script)
    with connected() as remote, pytest.raises(UnreachableError, match="did not come to our") as it:
        remote.run(("true",))
    assert ("Password:" if "Password" in script else "it printed nothing") in it.value.why


def test_a_python_that_is_too_old_is_refused_with_its_version(device: Login) -> None:
    old = device.home / "old"
    code = "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec python3 -c "{code}" "$3"\n')
    old.chmod(0o755)
    device.runs(PLAIN)
    with connected("~/old") as remote, pytest.raises(EdgekitError, match=r"has Python 3\.9"):
        remote.run(("true",))


def test_what_login_scripts_set_does_not_reach_our_programs(device: Login) -> None:
    """A mask that forbids everything, another locale, a Python that warns and one's own json.py."""
    settings = "umask 0777; export LC_ALL=POSIX PYTHONHOME=/nowhere PYTHONPATH=. PYTHONINSPECT=1"
    warn = 'python3() { echo warning: old >&2; command python3 -W always "$@"; }'
    device.runs(f"{settings}\n{warn}\n. ./command")
    (device.home / "json.py").write_text("raise SystemExit('the json of the home')\n")
    (device.home / "command").write_text('eval "$SSH_ORIGINAL_COMMAND"\n')
    try:
        with connected() as remote:
            assert facts(remote, "~/größe").root == str(device.home / "größe")
            assert remote.run(("sh", "-c", "umask")).stdout == b"0077\n"
    finally:
        (device.home / "json.py").unlink()


@pytest.mark.parametrize("home", ["unset HOME", "HOME=", "HOME=here"])
def test_without_a_home_in_its_environment_the_account_has_the_one_of_the_system(
    home: str, device: Login
) -> None:
    device.runs(f"{home}\n{PLAIN}")
    with connected() as remote:
        assert facts(remote).root == f"{pwd.getpwuid(os.getuid()).pw_dir}/.local/share/edgekit"


@pytest.mark.parametrize(
    ("config", "what", "why"),
    [
        ("MaxSessions 0\n", "opens no session", "Connect failed"),
        ("PubkeyAuthentication no\nPasswordAuthentication yes\n", "let us in", "only password"),
    ],
)
def test_an_sshd_that_lets_nobody_work_is_told_why(
    config: str, what: str, why: str, tmp_path: Path
) -> None:
    with logged_in(tmp_path, config) as login:
        login.runs(PLAIN)
        with pytest.raises(EdgekitError, match=what) as raised, connected() as remote:
            remote.run(("true",))
    assert why in raised.value.why
