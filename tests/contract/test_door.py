"""The door of a device that owns itself: a controller finds a device there, a thief finds nothing.

Real sshd with a forced command, the real controller, the real agent with a service of a few lines.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from edgekit.agent.release.door import admitted, sessions
from edgekit.agent.release.door import serve as door
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, VerificationError
from edgekit.fleet import commands
from edgekit.fleet.commands import Tree, relay_line
from edgekit.fleet.link.session import HEAD, MAGIC
from edgekit.trust.metadata import parse_offered
from tests.harness.box import config_bytes, eventually
from tests.harness.door import (
    DOOR,
    Place,
    ask,
    device_with_door,
    facts_of,
    ssh_to,
    told_by,
    write_part,
)
from tests.harness.door_words import ARGVS, FRAMES, PATHS, ROOT, D, verb
from tests.trusted import offer_bytes
from tests.unit.test_release_stage import release

pytestmark = pytest.mark.timeout(120)

BLOB = b"a blob" * 1000
NAME = Digest.of(BLOB)
LEASE = (
    *("lease", "--take", "0a1b2c3d", "--holder", "ada@desk"),
    *("--about", "rollout-7", "--seconds", "600"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with device_with_door(tmp_path_factory.mktemp("door"), tmp_path_factory.mktemp("a")) as place:
        yield place


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
        argv = commands.agent(facts_of(place), Tree.RELEASE, "activate", slow, "--config", "-")
        ask(there, argv, config_bytes())
        eventually(lambda: place.box.release(slow).tries == 1, what="the trial runs")
    place.box.answers(slow)
    assert place.box.activate(place.good)[0] == 0
    eventually(lambda: all(each.poll() is not None for each in place.updater.doors))


@pytest.mark.parametrize("name", ARGVS)
def test_another_command_is_refused_by_the_rules(name: str) -> None:
    with pytest.raises(VerificationError, match="takes only signed releases"):
        admitted.request(ARGVS[name], PurePosixPath(ROOT))


def test_the_verbs_of_a_push_are_let_in_as_a_controller_writes_them() -> None:
    for tree, trees in ((Tree.RELEASE, "current"), (Tree.BOOTSTRAP, "bootstrap")):
        for words in (
            *(
                ("stage", D),
                ("stage", D, "--offer"),
                ("stage", D, "--offer", "--dry-run"),
                ("stage", D, "--adopt", "12"),
            ),
            *(("activate", D), ("activate", D, "--config", "-"), ("state",), ("rollback",)),
            *(("stop",), ("start",), ("tune",), ("scrub",), ("scrub", "--rate", "0"), ("gc",)),
            *(("gc", "--dry-run"), ("gc", "--previous"), ("gc", "--dry-run", "--previous")),
            *(("gc", "--pin", D), ("gc", "--unpin", D), ("gc", "--pin", "0a1b2c")),
            ("logs", "--lines", "9", "--since", "0", "--wait", "0"),
            ("logs", "--lines", "9", "--since", "0", "--wait", "9", "--after", "12:0a"),
            *(("lease",), ("lease", "--give", "0a1b2c3d"), LEASE, (*LEASE, "--take-over")),
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


def test_a_plan_asks_through_the_door_and_changes_nothing(calm: Place) -> None:
    pinned = release()
    metadata = parse_offered(offer_bytes(pinned, counter=99)).metadata
    before = calm.untouched()
    with calm.driver() as driver:
        told = driver.dry_offer(pinned, metadata)
    assert told is not None
    assert told.bytes_to_send >= told.room.missing > 5000
    assert told.room.free > 0
    with calm.driver() as driver, pytest.raises(VerificationError, match="without signed"):
        driver.dry_offer(pinned, None)
    assert calm.untouched() == before


def test_a_first_contact_is_refused(calm: Place) -> None:
    with calm.driver() as driver, pytest.raises(VerificationError, match="takes only signed"):
        driver.bootstrap("0" * 12, b"a tar", lambda _: None)


def test_nothing_but_a_partial_blob_is_written(calm: Place, tmp_path: Path) -> None:
    root = calm.box.root
    with calm.raw() as there:
        for path in PATHS.values():
            assert "error" in write_part(there, path(str(root.path)), 0)
        part = str(root.store.part_path(NAME))
        for offset in (-1, 1, 1 << 62, 1.5, "0", None, True):
            assert "error" in write_part(there, part, offset), offset
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
            assert "error" in write_part(there, str(part), 3)
        assert victim.read_bytes() == b"precious"
    finally:
        part.rmdir() if kind == "folder" else part.unlink()


def test_a_transfer_leaves_room_on_the_disk(
    calm: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(door, "FREE_BYTES", 1 << 62)
    with (tmp_path / "x").open("wb") as file, pytest.raises(OSError, match="are free"):
        door._store(file.fileno(), b"x", 0)


@pytest.mark.parametrize("name", FRAMES)
def test_what_no_controller_says_ends_the_session(calm: Place, name: str) -> None:
    with calm.raw() as there:
        there.sendall(FRAMES[name])
        assert b"C" not in told_by(there)


@pytest.mark.parametrize("name", ["R", "W", "D"])
def test_half_a_frame_and_no_more_ends_the_session(calm: Place, name: str) -> None:
    with calm.raw() as there:
        there.sendall(HEAD.pack(MAGIC, name.encode(), 10) + b"{")
        there.shutdown(socket.SHUT_WR)
        assert b"C" not in told_by(there)


def test_standard_input_without_end_ends_the_session(calm: Place) -> None:
    with calm.raw() as there:
        told = json.dumps({"argv": verb("state"), "seconds": 5}).encode()
        there.sendall(HEAD.pack(MAGIC, b"R", len(told)) + told)
        with suppress(OSError):
            for _ in range(100):
                there.sendall(HEAD.pack(MAGIC, b"D", door.DATA_BYTES) + bytes(door.DATA_BYTES))
        with suppress(OSError):
            assert b"C" not in told_by(there)


@pytest.mark.parametrize("seconds", [-1, 0, "x", None, True])
def test_a_time_that_is_none_is_refused(calm: Place, seconds: Any) -> None:
    with calm.raw() as there:
        argv = commands.agent(facts_of(calm), Tree.RELEASE, "state")
        ask(there, argv, seconds=seconds)
        told = told_by(there)
        assert json.loads(told[b"C"])["code"] == 4
        assert json.loads(told[b"O"])["error"] == "VerificationError"


def test_every_refused_command_has_exit_code_4_at_the_door(calm: Place) -> None:
    root = str(calm.box.root.path)
    with calm.raw() as there:
        for argv in ARGVS.values():
            ask(there, json.loads(json.dumps(argv).replace(ROOT, root)))
            told = told_by(there)
            assert json.loads(told[b"C"])["code"] == 4, argv
            assert "takes only signed releases" in told[b"X"].decode()


@pytest.mark.parametrize("line", ["id", "", "touch /tmp/x; id", "scp -t /tmp", "sh -c 'exec sh'"])
def test_a_session_that_is_no_push_ends_with_4(calm: Place, line: str) -> None:
    done = ssh_to(calm, "-T", "device", *([line] if line else []), stdin=b"id\n")
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"this device takes only signed releases" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_thief_who_holds_every_session_keeps_nobody_out(calm: Place) -> None:
    """The quietest session ends for a new one; without that, `calm` would have 16 for ever."""
    with ExitStack() as stack:
        held = [stack.enter_context(calm.raw()) for _ in range(sessions.MOST)]
        pinged = HEAD.pack(MAGIC, b"P", 0)
        for there in held[1:]:
            ask(there, ["id"])  # does something; the first one pings alone
            assert json.loads(told_by(there)[b"C"])["code"] == 4
        held[0].sendall(pinged)
        with calm.driver() as driver:
            told = driver.call("state")["door"]
        assert (told["sessions"], told["most"]) == (sessions.MOST, sessions.MOST)
        assert told["oldest_since"] < time.time()
        with suppress(OSError):
            while held[0].recv(1 << 16):  # its beats, then its end
                pass
        ask(held[-1], ["id"])
        assert json.loads(told_by(held[-1])[b"C"])["code"] == 4, "who does something stays"


def test_a_session_that_says_nothing_at_all_ends_for_a_new_one(calm: Place) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(sessions.MOST)]
        for there in silent:
            there.connect(str(calm.address))
            there.settimeout(20)
        eventually(lambda: len(sessions.sessions(calm.box.root)) == sessions.MOST)
        with calm.driver() as driver:
            assert driver.call("state")["door"]["sessions"] == sessions.MOST
        assert any(_has_ended(there) for there in silent)


def _has_ended(there: socket.socket) -> bool:
    there.settimeout(1.5)
    try:
        return not there.recv(1)
    except TimeoutError:
        return False


def test_a_session_that_brings_nothing_ends(calm: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    own = sessions.OwnSession(calm.box.root)
    assert not own.is_over()
    monkeypatch.setattr(sessions, "IDLE_SECONDS", 0.05)
    own.acts()
    own.acts(sessions.STEP_BYTES // 2)
    time.sleep(0.1)
    own.acts(sessions.STEP_BYTES // 4)
    assert own.is_over(), "so few bytes are nothing"
    own.acts(sessions.STEP_BYTES // 4)
    assert not own.is_over()


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
