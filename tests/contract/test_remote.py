"""One contract for every way to a device: a folder of this host, and SSH by a real sshd."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet.link.local import LocalRemote, Remote
from edgekit.fleet.link.remote import SshRemote
from edgekit.fleet.transfer.values import WantedBlob
from tests import tools

pytestmark = pytest.mark.timeout(60)

HOSTILE = [
    "two words",
    "it's",
    'say "hi"',
    "$(touch pwned)",
    "`id`",
    "line\nbreak",
    "*",
    "~",
    "a;b&c|d>e",
    "\\",
    "",
    "-n",
    "ünïcode",
]


@pytest.fixture(scope="module", params=["local", "ssh", "ssh without forwarding"])
def remote(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Remote]:
    """Each implementation, connected."""
    if request.param == "local":
        yield LocalRemote()
        return
    folder = tmp_path_factory.mktemp("sshd")
    config = "AllowTcpForwarding no\n" if request.param.endswith("without forwarding") else ""
    with tools.sshd(folder, config) as server, pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        (home / ".ssh").mkdir(mode=0o700)
        (home / ".ssh" / "config").write_text(
            f"Host device\n  HostName 127.0.0.1\n  Port {server.port}\n"
            f"  IdentityFile {server.identity}\n  UserKnownHostsFile {server.known_hosts}\n"
        )
        patch.setenv("HOME", str(home))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        connection = SshRemote("device")
        yield connection
        connection.close()


def test_a_command_gets_its_stdin_and_gives_both_streams_and_its_exit_code(remote: Remote) -> None:
    done = remote.run(("sh", "-c", "cat; echo oops >&2; exit 7"), b"in")
    assert (done.code, done.stdout, done.stderr) == (7, b"in", b"oops\n")


def test_three_megabytes_of_binary_pass_both_ways_unchanged(remote: Remote) -> None:
    data = bytes(range(256)) * (3 * 4096)
    done = remote.run(("cat",), data)
    assert (done.code, done.stderr) == (0, b"")
    assert done.stdout == data


def test_much_on_stderr_does_not_block_stdout(remote: Remote) -> None:
    done = remote.run(("sh", "-c", "head -c 5000000 /dev/zero >&2; echo done"))
    assert (done.code, done.stdout, len(done.stderr)) == (0, b"done\n", 5_000_000)


def test_a_command_that_does_not_read_its_stdin_still_reports(remote: Remote) -> None:
    done = remote.run(("sh", "-c", "exit 3"), bytes(4_000_000))
    assert done.code == 3


def test_hostile_arguments_arrive_as_they_are(remote: Remote, tmp_path: Path) -> None:
    script = "import sys, os; os.chdir(sys.argv[1]); print(ascii(sys.argv[2:]))"
    done = remote.run(("python3", "-c", script, str(tmp_path), *HOSTILE))
    assert done.stdout.decode().strip() == ascii(HOSTILE)
    assert not list(tmp_path.iterdir())


def test_a_missing_program_is_exit_code_127(remote: Remote) -> None:
    done = remote.run(("no-such-program-here",))
    assert done.code == 127
    assert b"not found" in done.stderr


def test_a_command_past_its_deadline_is_given_up_and_the_way_stays_open(remote: Remote) -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=r"did not end within 0\.5 s"):
        remote.run(("sleep", "20"), seconds=0.5)
    assert time.monotonic() - began < 10
    assert remote.run(("echo", "hi")).stdout == b"hi\n"


OWN = """
import json, sys
print(json.dumps([sys.argv[1:], sys.stdin.read()]))
print("oops", file=sys.stderr)
sys.exit(5)
"""


def test_a_text_for_its_python_is_run_as_by_a_new_python(remote: Remote) -> None:
    done = remote.run(("python3", "-I", "-c", OWN, "a b", "ü"), b"given")
    words, given = json.loads(done.stdout)
    assert (words, given, done.code, done.stderr) == (["a b", "ü"], "given", 5, b"oops\n")
    done = remote.run(("python3", "-", "a b"), OWN.encode())
    words, given = json.loads(done.stdout)
    assert (words, given, done.code, done.stderr) == (["a b"], "", 5, b"oops\n")


@pytest.mark.parametrize(
    ("text", "code", "stderr"),
    [
        ("raise SystemExit('why')", 1, "why\n"),
        ("raise SystemExit", 0, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", 137, ""),
        ("no python", 1, "SyntaxError: invalid syntax\n"),
    ],
)
def test_a_text_that_fails_fails_as_in_a_new_python(
    remote: Remote, text: str, code: int, stderr: str
) -> None:
    done = remote.run(("python3", "-I", "-c", text))
    assert done.code in (code, -9 if code == 137 else code)  # as Popen says it, or a shell
    assert done.stderr.decode().endswith(stderr)
    assert remote.run(("python3", "-I", "-c", "print(1)")).stdout == b"1\n"


AGENT = """
import importlib.util, json, locale, os, subprocess, sys

def main():
    foreign = [m for m in sys.modules.values() if "-packages" in str(getattr(m, "__file__", ""))]
    sys.stdout.write(json.dumps({
        "environment": dict(os.environ),
        "of a child": subprocess.run(["env"], capture_output=True, text=True).stdout,
        "path": sys.path, "words": sys.argv[2:], "foreign": [m.__name__ for m in foreign],
        "found": [str(importlib.util.find_spec(name)) for name in ("pip", "apt", "planted")],
        "finders": [each.__name__ for each in sys.meta_path],
        "compiled": [sys.pycache_prefix, sys.dont_write_bytecode],
        "encodings": [sys.getfilesystemencoding(), locale.getpreferredencoding(False).lower()],
        "mask": os.umask(0), "leads": os.getsid(0) == os.getpid(), "parent": os.getppid(),
    }) + "\\n" + sys.stdin.read())
    print("oops \\udcff", file=sys.stderr)
    with open("/proc/self/cmdline") as file:
        sys.stderr.write("forked" if "exec(sys.stdin" in file.read() else "")
    sys.exit(4)

if __name__ == "__main__":
    main()
"""


def test_a_verb_is_run_as_by_a_new_python(remote: Remote, tmp_path: Path) -> None:
    """What the relay runs in a fork of itself sees what it would see in a process of its own."""
    tree = tmp_path / "träe"
    for folder in (tree / "edgekit", tree / "edgekit" / "agent"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (tree / "edgekit" / "agent" / "__main__.py").write_text(AGENT)
    python = remote.run(("python3", "-"), b"import sys; print(sys.executable)").stdout.decode()
    kept = f"PYTHONPYCACHEPREFIX={tmp_path / 'kept'}"
    names = ("PATH=/usr/bin:/bin", "LANG=C.UTF-8", f"PYTHONPATH={tree}:{tmp_path}", kept)
    words = ("env", "-i", *names, python.strip(), "-S", "-P", "-m", "edgekit.agent")
    forked, own = (remote.run((*words, verb, "ü", ""), b"given \xff") for verb in ("stage", "gc"))
    assert (forked.stdout, forked.code) == (own.stdout, own.code)
    assert (own.code, own.stderr) == (4, b"oops \\udcff\n")
    assert (tmp_path / "kept").is_dir(), "compiled modules are where the device keeps them"
    told, _, given = own.stdout.partition(b"\n")
    assert given == b"given \xff"
    assert json.loads(told)["found"] == ["None"] * 3
    # a process of its own escapes what is no text; both are for a person to read
    way = b"" if isinstance(remote, LocalRemote) else b"forked"
    assert forked.stderr in (b"oops \xff\n" + way, b"oops \\udcff\n" + way)


def test_a_text_past_its_deadline_is_given_up_with_what_it_started(remote: Remote) -> None:
    text = "import subprocess; print(subprocess.run(['sleep', '60']))"
    with pytest.raises(UnreachableError, match="did not end within 1 s"):
        remote.run(("python3", "-I", "-c", text), seconds=1)
    assert remote.run(("true",)).code == 0


def test_a_command_that_is_killed_is_a_failure(remote: Remote) -> None:
    assert remote.run(("sh", "-c", "kill -9 $$")).code != 0


def test_append_creates_and_goes_on_at_its_offset(remote: Remote, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "it's a $(target).part"
    data = bytes(range(256)) * 8192
    source.write_bytes(data)
    counts: list[int] = []
    remote.append(source, str(target), 0, counts.append)
    assert target.read_bytes() == data
    assert sum(counts) == len(data)
    target.write_bytes(data[:1_000_001])
    counts.clear()
    remote.append(source, str(target), 1_000_001, counts.append)
    assert target.read_bytes() == data
    assert sum(counts) == len(data) - 1_000_001


def test_append_starts_over_what_is_there_at_offset_zero(remote: Remote, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target.part"
    source.write_bytes(b"new")
    target.write_bytes(b"older and longer")
    remote.append(source, str(target), 0, lambda _: None)
    assert target.read_bytes() == b"new"


def test_append_of_an_empty_file_makes_an_empty_file(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    remote.append(tmp_path / "source", str(tmp_path / "target"), 0, lambda _: None)
    assert (tmp_path / "target").read_bytes() == b""


def parts(folder: Path, sizes: list[tuple[int, int]]) -> list[WantedBlob]:
    """Blobs of which the parts have some bytes."""
    found = []
    for number, (size, have) in enumerate(sizes):
        data = random.Random(number).randbytes(size)
        source, target = folder / f"source-{number}", folder / f"it's a $(target) {number}.part"
        source.write_bytes(data)
        if have:
            target.write_bytes(data[:have])
        found.append(WantedBlob(Digest.of(data), source, str(target), size, have))
    return found


@pytest.mark.parametrize(
    "sizes", [[(5_000_001, 0)], [(3_000_000, 1_234_567), (7, 0), (0, 0), (9, 9)], [(7, 2)], []]
)
def test_bring_fills_every_part(
    sizes: list[tuple[int, int]], remote: Remote, tmp_path: Path
) -> None:
    blobs, counts = parts(tmp_path, sizes), list[int]()
    remote.bring(blobs, counts.append)
    for blob in blobs:
        assert Path(blob.target).read_bytes() == blob.source.read_bytes()
    assert sum(counts) == sum(blob.lacking for blob in blobs)


def test_bring_where_nothing_can_be_written_is_an_error(remote: Remote, tmp_path: Path) -> None:
    (blob,) = parts(tmp_path, [(2_000_000, 0)])
    for target in (str(tmp_path / "no" / "target"), "/dev/full"):
        with pytest.raises(EdgekitError, match=r"cannot be written|were stored"):
            remote.bring([replace(blob, target=target)], lambda _: None)


def test_a_copy_shares_no_inode_with_its_source(remote: Remote, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"weights")
    remote.append(source, str(target), 0, lambda _: None)
    assert not target.samefile(source)


def test_append_where_nothing_can_be_written_is_an_error(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(EdgekitError):
        remote.append(tmp_path / "source", str(tmp_path / "no" / "target"), 0, lambda _: None)


def test_append_to_a_full_disk_is_an_error(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(1_000_000))
    with pytest.raises(EdgekitError):
        remote.append(tmp_path / "source", "/dev/full", 0, lambda _: None)
