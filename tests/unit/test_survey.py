"""Many devices at once: bounded, each with a deadline, and each with its own end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edgekit.agent.release.door import probe
from edgekit.cli.rollout.push import _plan
from edgekit.core.config import AgentConfig
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet import drive
from edgekit.fleet.connections import Connections
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.facts import DeviceFacts
from edgekit.fleet.inventory import Device, Fleet
from edgekit.fleet.places import Places, SharedRootError
from edgekit.fleet.rollout.kinds import survey_kinds
from edgekit.fleet.rollout.waves import UNKNOWN, Terms
from edgekit.fleet.survey import survey
from tests.unit.test_hardware_class import facts


class World:
    """Devices that are not there; a test says what connecting to each of them does."""

    def __init__(self) -> None:
        self.connect: Callable[[str], None] = lambda name: None
        self.open = self.most = 0
        self.closed: list[str] = []
        self._lock = threading.Lock()

    def open_device(
        self, fleet: Fleet, name: str, cap: Any = None, connected: Any = lambda _: None
    ) -> Any:
        device = _Device(name, self)
        with self._lock:
            self.open += 1
            self.most = max(self.most, self.open)
        try:
            connected(device)
            self.connect(name)
        except BaseException:
            device.close()
            raise
        return device

    def end(self, name: str) -> None:
        with self._lock:
            self.closed.append(name)
            self.open -= 1


class _Device:
    facts = facts("aarch64", "asimd asimddp")

    def __init__(self, name: str, world: World) -> None:
        self.name, self._world, self._over = name, world, threading.Event()

    def close(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self._world.end(self.name)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(drive, "open_device", world.open_device)
    return world


FLEET = Fleet({f"d{number}": Device("ssh:d") for number in range(200)}, {}, Path())
NAMES = [f"d{number}" for number in range(200)]


def test_every_device_is_looked_at_and_never_too_many_at_once(world: World) -> None:
    world.connect = lambda name: time.sleep(0.005)
    seen: list[tuple[int, int]] = []
    found = survey(
        FLEET, NAMES, lambda driver: driver.name, lambda done, of: seen.append((done, of)), 20
    )
    assert found == {name: name for name in NAMES}
    assert list(found) == NAMES
    assert 10 < world.most <= 20
    assert world.open == 0
    assert seen[0] == (0, 200)
    assert seen[-1] == (200, 200)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_device_that_hangs_is_given_up_and_its_place_goes_on(world: World) -> None:
    over = threading.Event()

    def connect(name: str) -> None:
        if name in ("d1", "d3"):
            over.wait(30)

    world.connect = connect
    began = time.monotonic()
    found = survey(FLEET, NAMES[:50], lambda driver: driver.name, parallel=2, seconds=0.4)
    took = time.monotonic() - began
    over.set()
    for name in ("d1", "d3"):
        assert isinstance(found[name], UnreachableError)
        assert "did not answer within 0.4 s" in str(found[name])
        assert name in world.closed  # which ends most waits
    assert all(found[name] == name for name in NAMES[:50] if name not in ("d1", "d3"))
    assert took < 10


def test_an_error_is_the_device_s_own_and_so_is_a_defect_of_ours(world: World) -> None:
    told = EdgekitError("it does not let us in", "no key", "add one")

    def look(driver: DeviceDriver) -> str:
        if driver.name == "d0":
            raise told
        if driver.name == "d1":
            raise KeyError("surprise")
        return "well"

    found = survey(FLEET, NAMES[:3], look)
    assert found["d0"] is told
    assert "KeyError: 'surprise'" in str(found["d1"])
    assert found["d2"] == "well"
    assert world.open == 0


def test_no_devices_are_no_survey(world: World) -> None:
    assert survey(FLEET, [], lambda driver: driver.name) == {}


def test_a_rollout_gets_the_class_of_each_device_that_answers(world: World) -> None:
    def connect(name: str) -> None:
        if name == "d1":
            raise UnreachableError("off")

    world.connect = connect
    kinds, unchanged = survey_kinds(Connections(FLEET), NAMES[:3], 8, lambda name, _: name == "d2")
    assert kinds == {"d0": "linux/arm64 dotprod 4GB", "d1": UNKNOWN, "d2": kinds["d0"]}
    assert unchanged == {"d2"}


def test_a_device_that_was_looked_at_is_not_connected_to_again(world: World) -> None:
    connections = Connections(FLEET)
    survey_kinds(connections, NAMES[:3], 3)
    assert world.open == 3
    kept = connections.open("d0")
    assert world.open == 3
    assert connections.open("d0") is not kept  # each is given once
    assert world.open == 4
    connections.close()
    until(lambda: sorted(world.closed) == ["d1", "d2"])


def test_no_more_connections_are_kept_than_may_be_open(world: World) -> None:
    survey_kinds(Connections(FLEET), NAMES[:4], 3)
    assert world.open == 0


def test_what_nobody_opens_in_time_is_closed(world: World) -> None:
    connections = Connections(FLEET, keep_seconds=0.05)
    survey_kinds(connections, NAMES[:3], 3)
    until(lambda: world.open == 0)
    connections.open("d0")
    assert world.open == 1


def test_of_a_device_whose_look_failed_nothing_is_kept(world: World) -> None:
    def runs_it(name: str, _: Any) -> bool:
        raise EdgekitError("its facts make no sense")

    kinds, _ = survey_kinds(Connections(FLEET), NAMES[:2], 8, runs_it)
    assert set(kinds.values()) == {UNKNOWN}
    assert world.open == 0
    connections = Connections(FLEET)
    connections.leave("d0")
    connections.keep(world.open_device(FLEET, "d0"))  # it answers after it was given up
    assert world.open == 0


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- two addresses of one device --------------------------------------------------------------
def probed(root: Path) -> DeviceFacts:
    """What the probe says of a ROOT on this machine."""
    return msgspec.structs.replace(facts("aarch64", ""), places=probe.places(str(root)))


def test_one_root_is_one_device_whatever_leads_there(tmp_path: Path) -> None:
    root, link, beside = tmp_path / "root", tmp_path / "link", tmp_path / "beside"
    link.symlink_to(tmp_path)
    places = Places()
    assert places.other("a", probed(root)) == "", "it is not made yet"
    assert places.other("b", probed(link / "root")) == "a"
    assert places.other("c", probed(beside)) == ""
    (root / "etc").mkdir(parents=True)
    beside.mkdir()
    assert places.other("d", probed(root)) in ("a", "b"), "it is made since it was looked at"
    assert places.other("a", probed(root)) != "a", "it is opened again"
    assert places.other("e", probed(root / "etc")) == "", "a ROOT in another one is a folder"
    assert places.other("f", probed(beside)) == "c"
    made = Places()
    assert [made.other("a", probed(root)), made.other("b", probed(root))] == ["", "a"]
    assert made.other("c", probed(beside)) == ""


def test_another_boot_or_file_system_is_another_device(tmp_path: Path) -> None:
    """Of a cloned image, and of a container, every path is the same."""
    here, places = probed(tmp_path), Places()
    assert places.other("a", here) == ""
    for number, (place, into) in enumerate(((0, "another-boot"), (1, "77"))):
        told = []
        for line in here.places:
            words = line.split(" ", 3)
            told.append(" ".join((*words[:place], into, *words[place + 1 :])))
        assert places.other(f"b{number}", msgspec.structs.replace(here, places=told)) == ""
    assert places.other("old", facts("aarch64", "")) == "", "a probe of before says nothing"


class Alias(World):
    """d0 and d2 are one device, and so are all others of an even number."""

    config = ""

    def open_device(self, fleet: Fleet, name: str, *args: Any, **more: Any) -> Any:
        device = super().open_device(fleet, name, *args, **more)
        number = int(name[1:])
        told = [f"boot 1 {number if number % 2 else 0} ", "boot 1 99 edgekit"]
        told = told[: 1 + number % 2]
        device.facts = msgspec.structs.replace(device.facts, places=told, config=self.config)
        return device


@pytest.fixture
def alias(monkeypatch: pytest.MonkeyPatch) -> Alias:
    world = Alias()
    monkeypatch.setattr(drive, "open_device", world.open_device)
    return world


def test_a_look_at_many_names_those_that_are_one(alias: Alias) -> None:
    found = survey(FLEET, NAMES[:4], lambda driver: driver.name)
    assert isinstance(found["d0"], SharedRootError)
    assert "d0 and d2 are one device" in str(found["d0"])
    assert found["d2"] == found["d0"]
    assert (found["d1"], found["d3"]) == ("d1", "d3")
    assert alias.open == 0


@pytest.mark.parametrize("count", [3, 8])
def test_a_push_to_two_that_are_one_is_refused_before_it_begins(alias: Alias, count: int) -> None:
    connections, configs = Connections(FLEET), {name: AgentConfig(name) for name in NAMES[:count]}
    pinned: Any = SimpleNamespace(digest=Digest.of(b"release"))
    with pytest.raises(SharedRootError, match="are one device") as caught:
        _plan(connections, configs, pinned, Terms(), {})
    assert "'!d" in caught.value.next_step
    until(lambda: alias.open == 0)


def test_a_rollout_opens_one_device_under_one_name(alias: Alias) -> None:
    connections = Connections(FLEET)
    connections.open("d0")
    connections.open("d0")
    connections.open("d1")
    with pytest.raises(SharedRootError, match="d0 and d2 are one device"):
        connections.open("d2")
    assert alias.closed == ["d2"]


@pytest.mark.parametrize(
    ("has", "other_is", "refused"),
    [
        ("d0", "d2", True),  # d2 leads to the ROOT of d0, which was pushed to before
        ("d1", "d2", False),  # of a cloned image: d1 is another device
        ("d2", "d2", False),
        ("gone", "d2", False),  # it has got another name
        ("", "d2", False),
    ],
)
def test_a_root_that_has_another_name_is_that_device_s_or_a_clone_s(
    alias: Alias, has: str, other_is: str, refused: bool
) -> None:
    """Also where each is pushed to alone, by a command of its own."""
    alias.config = f'device = "{has}"\n' if has else ""
    connections = Connections(FLEET)
    if refused:
        with pytest.raises(SharedRootError, match="d0 and d2 are one device"):
            connections.open(other_is)
    else:
        assert connections.open(other_is).name == other_is
    until(lambda: alias.open == int(not refused))


def test_a_device_that_cannot_be_asked_whose_a_root_is_stops_no_push(alias: Alias) -> None:
    def connect(name: str) -> None:
        if name == "d0":
            raise UnreachableError("off")

    alias.config, alias.connect = 'device = "d0"\n', connect
    assert Connections(FLEET).open("d2").name == "d2"


def test_what_is_kept_after_the_first_were_closed_has_its_time_too(world: World) -> None:
    connections = Connections(FLEET, keep_seconds=0.05)
    for name in NAMES[:2]:
        connections.keep(drive.open_device(FLEET, name))
        until(lambda: world.open == 0)
