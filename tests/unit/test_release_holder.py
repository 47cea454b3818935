"""The lease with a name: who has it, until when, what a clock does to it, and who broke it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.release import holder, lease
from edgekit.agent.release.holder import Uptime
from edgekit.agent.release.root import Root
from edgekit.core.lease import SOAK_SECONDS, LeaseAnswer, LeaseWish
from edgekit.errors import EdgekitError
from edgekit.fleet.commands import relay_line

ADA, BOB = "ada1" * 4, "b0b0" * 4
Session = Callable[[str], None]


class Device:
    """A ROOT with a clock that the test sets, and sessions that it names."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.now = Uptime("boot-1", 1000.0)
        self.session = "11 1"
        self.about = "rollout-7"

    def take(
        self, own: str, session: str = "", seconds: float = 600.0, *, over: bool = False
    ) -> LeaseAnswer:
        self.session = session or f"{own} 1"
        name = {ADA: "ada@desk", BOB: "bob@night"}[own]
        return holder.take(self.root, LeaseWish(own, name, self.about, seconds, over))

    def refused(self, session: str) -> str:
        """Why a verb of this session is refused; empty: it is not."""
        self.session = session
        try:
            holder.check(self.root)
        except EdgekitError as error:
            return str(error)
        return ""

    def goes_on(self, seconds: float) -> None:
        self.now = Uptime(self.now.boot, self.now.seconds + seconds)

    def reboots(self, after: float = 20.0) -> None:
        self.now = Uptime(self.now.boot + "+", after)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device(Root(tmp_path / "root"))
    made.root.create()
    monkeypatch.setattr(holder, "uptime", lambda: made.now)
    monkeypatch.setattr(lease, "session", lambda: made.session)
    return made


def test_the_second_is_told_who_has_it_since_when_and_until_when(device: Device) -> None:
    assert device.take(ADA).taken
    device.goes_on(200)
    answer = device.take(BOB)
    assert not answer.taken
    assert answer.lease is not None
    assert str(answer.lease) == "ada@desk (rollout-7)"
    assert (answer.lease.age_seconds, answer.lease.left_seconds) == (200, 400)
    told = device.refused("bob 1")
    assert "ada@desk (rollout-7) holds this device" in told
    assert "since 200 s, and for 400 s more at most" in told
    assert "--lock-wait 400" in told
    assert "--take-over" in told
    assert device.refused(f"{ADA} 1") == ""


def test_a_lease_ends_by_itself(device: Device) -> None:
    device.take(ADA)
    device.goes_on(600)
    assert holder.held(device.root) is None
    assert device.refused("bob 1") == ""
    assert device.take(BOB).taken
    assert not device.take(ADA).taken  # it came too late, and waits like anybody


def test_a_lease_goes_on_while_its_session_lives(device: Device) -> None:
    relay = [sys.executable, *shlex.split(relay_line("x", 1, 2))[1:]]
    with subprocess.Popen(relay, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        assert session.stdout.readline()
        device.take(ADA, lease._identity(session.pid))
        device.goes_on(24 * 3600)
        assert not device.take(BOB).taken
        assert "for 100 s more at most" in device.refused("bob 1")
        session.kill()
    assert device.take(BOB).taken


def test_the_same_rollout_takes_it_again_at_once_from_another_session(device: Device) -> None:
    device.take(ADA, "11 1")
    device.goes_on(500)
    answer = device.take(ADA, "12 5")
    assert answer.taken
    assert answer.lease is not None
    assert (answer.lease.age_seconds, answer.lease.left_seconds) == (500, 600)
    assert device.refused("12 5") == ""
    assert "holds this device" in device.refused("11 1")  # what is left of a dead controller


def test_only_its_rollout_gives_it_back(device: Device) -> None:
    device.take(ADA)
    assert holder.give(device.root, BOB).lease is not None
    assert holder.give(device.root, ADA).lease is None
    assert device.take(BOB).taken


def test_a_jump_of_the_wall_clock_changes_nothing(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.take(ADA)
    for year in (1970, 2099):
        monkeypatch.setattr("time.time", lambda year=year: (year - 1970) * 3.15e7)
        assert not device.take(BOB).taken
    device.goes_on(601)
    assert device.take(BOB).taken


def test_after_a_reboot_it_holds_once_more_and_not_for_ever(device: Device) -> None:
    """The device reboots in its trial: the second operator still waits for the verdict."""
    device.now = Uptime("boot-1", 1_000_000.0)
    device.take(ADA)
    device.reboots()
    assert not device.take(BOB).taken
    device.goes_on(575)
    assert not device.take(BOB).taken
    device.goes_on(10)
    assert device.take(BOB).taken


def test_a_device_without_a_boot_id_keeps_no_lease_for_ever(device: Device) -> None:
    device.now = Uptime("", 1_000_000.0)
    device.take(ADA)
    device.now = Uptime("", 700.0)
    assert device.take(BOB).taken


def test_the_clock_of_leases_is_the_boots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = holder.uptime(), holder.uptime()
    assert first.boot == second.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert 0 < first.seconds <= second.seconds < first.seconds + 60
    monkeypatch.setattr(holder, "BOOT_ID", tmp_path / "none")
    assert holder.uptime().boot == ""


def test_whoever_was_taken_over_is_told_and_stays_out(device: Device) -> None:
    device.take(ADA)
    assert device.take(BOB, over=True).taken
    assert "bob@night (rollout-7) holds this device" in device.refused(f"{ADA} 1")
    answer = device.take(ADA)
    assert (answer.taken, answer.taken_over_by) == (False, "bob@night")
    holder.give(device.root, BOB)
    assert device.take(ADA).taken_over_by == "bob@night"  # what it meant to do is out of date
    assert "bob@night took this device over" in device.refused(f"{ADA} 1")
    assert device.refused("somebody 1") == ""
    assert device.take(ADA, over=True).taken
    assert device.refused(f"{ADA} 1") == ""


def test_the_next_rollout_of_a_project_that_was_taken_over_is_let_in(device: Device) -> None:
    device.take(ADA)
    device.take(BOB, over=True)
    holder.give(device.root, BOB)
    device.about = "rollout-8"
    answer = device.take(ADA)
    assert answer.taken
    assert answer.lease is not None
    assert answer.lease.about == "rollout-8"
    holder.give(device.root, ADA)
    device.about = "rollout-7"
    assert not device.take(ADA).taken


def test_a_lease_ends_with_the_activation_or_after_the_soak(device: Device) -> None:
    device.take(ADA)
    device.session = "somebody 1"
    holder.settle(device.root)
    assert not device.take(BOB).taken
    device.session = f"{ADA} 1"
    holder.settle(device.root, 300.0)
    device.goes_on(300 + SOAK_SECONDS - 1)
    assert not device.take(BOB).taken
    device.goes_on(2)
    assert device.take(BOB).taken
    holder.settle(device.root)
    assert holder.held(device.root) is None


def test_taking_over_what_nobody_holds_breaks_nothing(device: Device) -> None:
    assert device.take(BOB, over=True).taken
    holder.give(device.root, BOB)
    assert device.take(ADA).taken
    for number in range(3 * holder.KEPT):  # two who fight leave no endless file
        assert device.take((BOB, ADA)[number % 2], over=True).taken
    assert device.root.holder_file.stat().st_size < 4096


def test_a_push_of_an_older_controller_is_waited_for(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "is_held", lambda _: True)
    answer = device.take(BOB)
    assert not answer.taken
    assert answer.lease is not None
    assert answer.lease.holder == holder.UNNAMED
    device.root.lease_file.write_text("1 1")
    assert device.take(BOB, over=True).taken
    assert not device.root.lease_file.exists()


def test_a_resumed_rollout_does_not_wait_for_its_dead_session(device: Device) -> None:
    device.take(ADA, "11 1")
    device.root.lease_file.write_text(lease._identity(1))  # the relay that it left, still alive
    assert device.take(ADA, "12 1").taken
    lease.claim(device.root)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"id": 7}', b"\xff\0", b'{"id":"a","ends":"x"}']
)
def test_a_damaged_file_is_nobodys_lease(device: Device, data: bytes) -> None:
    device.root.holder_file.write_bytes(data)
    assert device.refused("bob 1") == ""
    assert device.take(BOB).taken


def test_a_later_agents_facts_are_left_alone(device: Device) -> None:
    device.take(ADA)
    told = msgspec.json.decode(device.root.holder_file.read_bytes())
    device.root.holder_file.write_bytes(msgspec.json.encode(told | {"later": 1}))
    assert not device.take(BOB).taken


def test_on_a_full_disk_a_push_makes_room_first(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.take(ADA)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(holder, "publish", full)
    with pytest.raises(OSError, match="No space"):
        device.take(BOB, over=True)  # it cannot be told to the one who has it
    assert device.take(ADA).taken
    holder.give(device.root, ADA)
    assert not device.root.holder_file.exists()
    answer = device.take(BOB)
    assert (answer.taken, answer.lease) == (True, None)


@pytest.mark.parametrize("field", ["id", "holder", "about", "head"])
def test_a_word_of_a_lease_ends_without_a_line_end(field: str) -> None:
    """It stands in a file and in messages; `$` of a pattern lets a last line end through."""
    told = {"id": ADA, "holder": "ada@desk", "about": "rollout-7", "head": "ab" * 32}
    assert msgspec.convert(told, LeaseWish).about == "rollout-7"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(told | {field: told[field] + "\n"}, LeaseWish)
