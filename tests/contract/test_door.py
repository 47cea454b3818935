"""The door of a device that owns itself: a controller finds a device there, a thief finds nothing.

Real sshd with a forced command, the real controller, the real agent with a service of a few lines.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import zstandard

from edgekit import data
from edgekit.agent.release.door import admitted
from edgekit.agent.release.door import serve as door
from edgekit.agent.release.supervisor.choose import supervisor_of
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, VerificationError
from edgekit.fleet import commands
from edgekit.fleet.commands import Tree, relay_line
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.inventory import Device
from edgekit.fleet.remote import SshRemote
from edgekit.fleet.session import HEAD, MAGIC
from tests.harness.box import Box, config_bytes, eventually, make_root
from tests.harness.ssh_account import Login, logged_in

pytestmark = pytest.mark.timeout(120)

DOOR = data.path("deploy/door/edgekit-door")
BLOB = b"a blob" * 1000
NAME = Digest.of(BLOB)


class Updater:
    """What systemd does for edgekit-updater.socket: one door for each connection."""

    def __init__(self, root: Path, address: Path) -> None:
        self._root, self._over = root, False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(address))
        self._socket.listen()
        self.doors: list[subprocess.Popen[bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                there, _ = self._socket.accept()
                with there:
                    self.doors.append(
                        subprocess.Popen(
                            [sys.executable, "-I", str(DOOR), "serve", str(self._root)],
                            stdin=there.fileno(),
                            stdout=there.fileno(),
                            env={"PATH": os.defpath},
                        )
                    )

    def close(self) -> None:
        self._socket.close()
        for process in self.doors:
            process.kill()
            process.wait()


@dataclass
class Place:
    """A device with a door, and the account that reaches it."""

    box: Box
    login: Login
    address: Path
    updater: Updater
    good: Digest

    @contextmanager
    def driver(self, root: str = "") -> Iterator[DeviceDriver]:
        device = Device("ssh:device")
        with closing(SshRemote("device")) as remote:
            yield DeviceDriver("box", device, remote, root)

    def untouched(self) -> dict[str, object]:
        """Everything in ROOT that a request could change; the log and caches are none of it."""
        root = self.box.root.path
        found: dict[str, object] = {}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if name.startswith(("run/", "log/")) or "__pycache__" in name:
                continue
            found[name] = path.read_bytes() if path.is_file() else path.is_symlink()
        return found

    @contextmanager
    def raw(self) -> Iterator[socket.socket]:
        """A session at the socket itself, after the greeting."""
        with socket.socket(socket.AF_UNIX) as there:
            there.connect(str(self.address))
            there.settimeout(20)
            line = relay_line("python3", 77, 3).encode()
            there.sendall(struct.pack(">I", len(line)) + line)
            assert there.recv(100) == b"4d %d.%d\n" % sys.version_info[:2]
            there.sendall(b"xyz")
            yield there


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("door")
    root = make_root(folder / "root")
    package = Path(zstandard.__file__).parent
    (root.trees / "runtime" / "zstandard").symlink_to(package)
    box = Box(root)
    good = box.stage("good first")
    assert box.activate(good, config_bytes())[0] == 0
    address = folder / "socket"
    updater = Updater(root.path, address)
    try:
        with logged_in(tmp_path_factory.mktemp("account")) as login:
            login.runs(f"EDGEKIT_DOOR_SOCKET={address} exec {sys.executable} -I {DOOR}")
            yield Place(box, login, address, updater, good)
    finally:
        updater.close()
        supervisor_of(root).stop()


@pytest.fixture
def calm(place: Place) -> Iterator[Place]:
    """Whatever the test says to the door: the device runs on, and nothing of it has changed."""
    before, agent = place.untouched(), place.box.agent
    yield place
    assert place.untouched() == before
    assert place.box.agent == agent
    place.box.answers(place.good)


def test_a_controller_finds_a_device_there(place: Place, tmp_path: Path) -> None:
    root = place.box.root
    with place.driver() as driver:
        assert (driver.facts.door, driver.facts.root) == (True, str(root.path))
        assert driver.facts.current == place.good
        assert driver.call("state")["current"] == place.good
        source, part = tmp_path / "blob", commands.part_path(driver.facts, NAME)
        source.write_bytes(BLOB)
        driver._remote.append(source, part, 0, lambda _: None)
        assert root.store.part_path(NAME).read_bytes() == BLOB
        assert driver.call("stage", NAME, "--adopt", str(len(BLOB))) == {"adopted": NAME}
        assert driver.call("stop") == {"stopped": True}
        assert driver.call("start")["started"] is True
        with pytest.raises(EdgekitError, match="no previous release"):
            driver.call("rollback")
        with pytest.raises(EdgekitError, match="is not staged here"):
            driver.call("activate", NAME, "--config", "-", stdin=config_bytes())
    root.store.remove(NAME)
    place.box.answers(place.good)


def test_a_transfer_goes_on_where_it_broke_off(place: Place, tmp_path: Path) -> None:
    source, part = tmp_path / "blob", place.box.root.store.part_path(NAME)
    source.write_bytes(BLOB)
    part.write_bytes(BLOB[:500])
    with place.driver() as driver:
        driver._remote.append(source, str(part), 500, lambda _: None)
    assert part.read_bytes() == BLOB
    part.unlink()


def test_a_verb_whose_session_is_cut_runs_to_its_end(place: Place) -> None:
    slow = place.box.stage("slow")
    with place.raw() as there:
        argv = commands.agent(_facts(place), Tree.RELEASE, "activate", slow, "--config", "-")
        _ask(there, argv, config_bytes())
        eventually(lambda: place.box.release(slow).tries == 1, what="the trial runs")
    place.box.answers(slow)
    assert place.box.activate(place.good)[0] == 0
    eventually(lambda: all(each.poll() is not None for each in place.updater.doors))


def _facts(place: Place) -> Any:
    with place.driver() as driver:
        return driver.facts


def _ask(there: socket.socket, argv: Any, stdin: bytes = b"", seconds: Any = 20) -> None:
    told = json.dumps({"argv": argv, "seconds": seconds}).encode()
    there.sendall(HEAD.pack(MAGIC, b"R", len(told)) + told)
    there.sendall(HEAD.pack(MAGIC, b"D", len(stdin)) + stdin)
    there.sendall(HEAD.pack(MAGIC, b"E", 0))


def _told(there: socket.socket) -> dict[bytes, bytes]:
    """The answer to a request, by the kind of its frames; nothing if the door hung up."""
    reader, found = there.makefile("rb"), {}
    while b"C" not in found and len(head := reader.read(HEAD.size)) == HEAD.size:
        _, kind, length = HEAD.unpack(head)
        found[kind] = reader.read(length)
    return found


ROOT = "/var/lib/edgekit"


def verb(*words: str, root: str = ROOT, trees: str = "") -> list[str]:
    trees = trees or f"{root}/current/agent:{root}/current/runtime"
    python = ["env", "-i", f"PYTHONPATH={trees}", "/usr/bin/python3", "-S", "-P"]
    return [*python, "-m", "edgekit.agent", words[0], "--root", root, *words[1:]]


D = f"sha256:{'0' * 64}"
ARGVS: dict[str, Any] = {
    "a shell": ["sh", "-c", "touch /tmp/x"],
    "python": ["python3", "-c", "print(1)"],
    "first contact": ["/usr/bin/python3", "-c", "import os", ROOT, "abc", "12"],
    "a probe of another root": ["python3", "-", "/etc"],
    "a probe with more": ["python3", "-", "", "x"],
    "another root": verb("state", root="/tmp/mine"),
    "a root with dots": verb("state", root=f"{ROOT}/../edgekit"),
    "a root twice": [*verb("state"), "--root", "/tmp"],
    "trees of its own": verb("state", trees="/tmp/mine"),
    "no trees": ["env", "-i", "python3", "-S", "-P", "-m", "edgekit.agent", "state"],
    "two trees": [*verb("state")[:3], "PYTHONPATH=/tmp/mine", *verb("state")[3:]],
    "boot": verb("boot"),
    "supervise": verb("supervise"),
    "serve": verb("serve"),
    "worker": verb("worker", "--descriptor", "0"),
    "door": verb("door"),
    "stage from a folder": verb("stage", D, "--from", "/tmp"),
    "stage a path": verb("stage", "../../etc/passwd"),
    "stage a short digest": verb("stage", "sha256:00"),
    "adopt without a number": verb("stage", D, "--adopt", "-1"),
    "activate a file": verb("activate", D, "--config", "/etc/shadow"),
    "a digest with a newline": verb("activate", f"{D}\n"),
    "words in a word": verb("activate", f"{D} --config -"),
    "state with more": verb("state", "--help"),
    "a module more": [*verb("state"), "-S", "-P", "-m", "edgekit.agent", "serve"],
    "env with another option": ["env", "-S", *verb("state")[2:]],
    "nothing": [],
    "no list": "state",
    "numbers": [1, 2, 3],
    "an object": {"a": 1},
    "half a verb": ["env", "-i", "python3", "-S", "-P", "-m", "edgekit.agent"],
}


@pytest.mark.parametrize("name", ARGVS)
def test_another_command_is_refused_by_the_rules(name: str) -> None:
    with pytest.raises(VerificationError, match="takes only signed releases"):
        admitted.request(ARGVS[name], PurePosixPath(ROOT))


def test_the_verbs_of_a_push_are_let_in_as_a_controller_writes_them() -> None:
    for tree, trees in ((Tree.RELEASE, "current"), (Tree.BOOTSTRAP, "bootstrap")):
        for words in (
            *(("stage", D), ("stage", D, "--offer"), ("stage", D, "--adopt", "12")),
            *(("activate", D), ("activate", D, "--config", "-"), ("state",), ("rollback",)),
            *(("stop",), ("start",), ("prune",), ("scrub",)),
        ):
            told = _device_facts()
            found = admitted.request(list(commands.agent(told, tree, *words)), PurePosixPath(ROOT))
            assert isinstance(found, admitted.RunVerb)
            assert found.words == (words[0], "--root", ROOT, *words[1:])
            assert trees in str(found.trees[0])
    for root in ("", ROOT):
        asked = list(commands.probe("python3", root))
        assert admitted.request(asked, PurePosixPath(ROOT)) == admitted.ReadFacts()


def _device_facts() -> Any:
    from tests.unit.test_layout import facts

    return facts(PurePosixPath(ROOT))


@pytest.mark.parametrize("python", ["python3", "~/bin/python3", "/opt/py/bin/python3.12"])
def test_the_line_of_a_push_is_the_only_greeting(python: str) -> None:
    line = relay_line(python, 1 << 59, 9000)
    assert admitted.greeting(line.encode()) == (1 << 59, 9000)
    for changed in (
        *(f"{line};id", f"{line}\nid", f" {line}", line.replace("exec", "eval"), line[:-1]),
        *(f"x;{line}", f"$(id){line}", relay_line(python, 1, 1 << 21), "", "id", "\0"),
    ):
        with pytest.raises(VerificationError):
            admitted.greeting(changed.encode())


@pytest.mark.parametrize("root", ["/tmp/mine", "/etc", "~"])
def test_a_root_of_its_own_is_refused_to_a_controller(calm: Place, root: str) -> None:
    with pytest.raises(VerificationError, match="takes only signed") as raised, calm.driver(root):
        pass
    assert str(calm.box.root.path) in raised.value.why


def test_a_first_contact_is_refused(calm: Place) -> None:
    with calm.driver() as driver, pytest.raises(VerificationError, match="takes only signed"):
        driver.bootstrap("0" * 12, b"a tar", lambda _: None)


PATHS: dict[str, Callable[[str], Any]] = {
    "a file of the device": lambda root: f"{root}/etc/agent.toml",
    "a whole blob": lambda root: f"{root}/blobs/sha256/{'0' * 64}",
    "dots": lambda root: f"{root}/blobs/sha256/../../etc/{'0' * 64}.part",
    "a short name": lambda root: f"{root}/blobs/sha256/00.part",
    "capitals": lambda root: f"{root}/blobs/sha256/{'A' * 64}.part",
    "two slashes": lambda root: f"{root}/blobs/sha256//{'0' * 64}.part",
    "a newline": lambda root: f"{root}/blobs/sha256/{'0' * 64}.part\n",
    "a NUL": lambda root: f"{root}/blobs/sha256/{'0' * 63}\0.part",
    "another root": lambda root: f"/tmp/blobs/sha256/{'0' * 64}.part",
    "relative": lambda root: f"blobs/sha256/{'0' * 64}.part",
    "the bootstrap's": lambda root: f"{root}/.bootstrap-000000000000.part",
    "no text": lambda root: 7,
}


def _write(there: socket.socket, path: Any, offset: Any, content: bytes = b"mine") -> Any:
    told = json.dumps({"path": path, "offset": offset}).encode()
    there.sendall(HEAD.pack(MAGIC, b"W", len(told)) + told)
    there.sendall(HEAD.pack(MAGIC, b"D", len(content)) + content + HEAD.pack(MAGIC, b"E", 0))
    return json.loads(_told(there)[b"C"])


def test_nothing_but_a_partial_blob_is_written(calm: Place, tmp_path: Path) -> None:
    root = calm.box.root
    with calm.raw() as there:
        for path in PATHS.values():
            assert "error" in _write(there, path(str(root.path)), 0)
        part = str(root.store.part_path(NAME))
        for offset in (-1, 1, 1 << 62, 1.5, "0", None, True):
            assert "error" in _write(there, part, offset), offset
    Path(part).unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "fifo", "folder"])
def test_what_is_no_plain_partial_blob_is_not_written(
    calm: Place, tmp_path: Path, kind: str
) -> None:
    victim, part = tmp_path / "victim", calm.box.root.store.part_path(NAME)
    victim.write_bytes(b"precious")
    match kind:
        case "symbolic link":
            part.symlink_to(victim)
        case "hard link":
            os.link(victim, part)
        case "fifo":
            os.mkfifo(part)
        case _:
            part.mkdir()
    try:
        with calm.raw() as there:
            assert "error" in _write(there, str(part), 3)
        assert victim.read_bytes() == b"precious"
    finally:
        part.rmdir() if kind == "folder" else part.unlink()


def test_a_transfer_leaves_room_on_the_disk(
    calm: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(door, "FREE_BYTES", 1 << 62)
    with (tmp_path / "x").open("wb") as file, pytest.raises(OSError, match="are free"):
        door._store(file.fileno(), b"x", 0)


FRAMES = {
    "noise": b"GET / HTTP/1.1\r\n\r\n" * 10,
    "a huge request": HEAD.pack(MAGIC, b"R", 1 << 31),
    "a huge write": HEAD.pack(MAGIC, b"W", door.REQUEST_BYTES + 1),
    "an unknown kind": HEAD.pack(MAGIC, b"Z", 0),
    "data first": HEAD.pack(MAGIC, b"D", 4) + b"data",
    "no JSON": HEAD.pack(MAGIC, b"R", 4) + b"{{{{",
    "a list": HEAD.pack(MAGIC, b"R", 2) + b"[]",
    "deep JSON": HEAD.pack(MAGIC, b"R", 60_000) + b"[" * 60_000,
    "no seconds": HEAD.pack(MAGIC, b"R", 2) + b"{}" + HEAD.pack(MAGIC, b"R", 2),
}


@pytest.mark.parametrize("name", FRAMES)
def test_what_no_controller_says_ends_the_session(calm: Place, name: str) -> None:
    with calm.raw() as there:
        there.sendall(FRAMES[name])
        assert b"C" not in _told(there)


def test_standard_input_without_end_ends_the_session(calm: Place) -> None:
    with calm.raw() as there:
        told = json.dumps({"argv": verb("state"), "seconds": 5}).encode()
        there.sendall(HEAD.pack(MAGIC, b"R", len(told)) + told)
        with suppress(OSError):
            for _ in range(100):
                there.sendall(HEAD.pack(MAGIC, b"D", door.DATA_BYTES) + bytes(door.DATA_BYTES))
        with suppress(OSError):
            assert b"C" not in _told(there)


@pytest.mark.parametrize("seconds", [-1, 0, "x", None, True])
def test_a_time_that_is_none_is_refused(calm: Place, seconds: Any) -> None:
    with calm.raw() as there:
        argv = commands.agent(_facts(calm), Tree.RELEASE, "state")
        _ask(there, argv, seconds=seconds)
        told = _told(there)
        assert json.loads(told[b"C"])["code"] == 4
        assert json.loads(told[b"O"])["error"] == "VerificationError"


def test_every_refused_command_has_exit_code_4_at_the_door(calm: Place) -> None:
    root = str(calm.box.root.path)
    with calm.raw() as there:
        for argv in ARGVS.values():
            _ask(there, json.loads(json.dumps(argv).replace(ROOT, root)))
            told = _told(there)
            assert json.loads(told[b"C"])["code"] == 4, argv
            assert "takes only signed releases" in told[b"X"].decode()


def _ssh(place: Place, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    config = place.login.config
    return subprocess.run(
        ["ssh", "-F", config, "-o", "BatchMode=yes", *words],
        input=stdin,
        capture_output=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("line", ["id", "", "touch /tmp/x; id", "scp -t /tmp", "sh -c 'exec sh'"])
def test_a_session_that_is_no_push_ends_with_4(calm: Place, line: str) -> None:
    done = _ssh(calm, "-T", "device", *([line] if line else []), stdin=b"id\n")
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"this device takes only signed releases" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_door_without_an_agent_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", DOOR, "serve", tmp_path], capture_output=True, check=False
    )
    assert done.returncode == 4
    assert done.stdout.startswith(b"refused: this device has no agent")


def test_the_door_knows_no_paths_of_its_own() -> None:
    """Its script stands outside the package: its literals are those of the layout."""
    text = DOOR.read_text("utf-8")
    told = re.findall(r'os\.path\.join\((?:root|current), ("[^)]*)\)', text)
    parts = {"/".join(json.loads(f"[{each}]")) for each in told}
    assert {"current", "agent", "runtime", "bootstrap", str(layout.PYCACHE)} <= parts
