"""ROOT/etc/trust on a device: its first root, crashes, counters, sticks, what `state` says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.release.staging import permission
from edgekit.agent.release.staging.counters import Counters
from edgekit.agent.release.staging.kept import ENROLLED, FIRST_USE, TRUSTED, read_trust
from edgekit.agent.release.staging.permission import (
    check_activation,
    describe_trust,
    hardware_names,
)
from edgekit.agent.release.state import Releases
from edgekit.cli.device.fleet import _trust_lines
from edgekit.core import layout
from edgekit.core.release import ReleaseEvent
from edgekit.errors import VerificationError
from edgekit.store import replace_link
from tests.attacked import FIRST, GOOD, NEXT, Device, bundle, make_device, snapshot
from tests.metadata_maker import Maker, key

DAY = 86400.0


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return make_device(tmp_path / "root")


def offered(device: Device, counter: int = GOOD + 1, rollback: int = 0) -> int:
    device.maker.sign(NEXT.manifest, counter, rollback)
    device.maker.bump()
    code, _ = device.offer(NEXT, device.maker.made())
    return code


def trust(device: Device) -> Path:
    return device.root.path / layout.TRUST


# --- the first root


def test_the_first_push_decides_which_root_a_device_trusts(device: Device) -> None:
    said = describe_trust(device.root)
    assert (said["root"], said["how"], said["counter"]) == (1, "first use", GOOD)
    assert said["warnings"] == []
    assert said["signed_at"] == int(device.maker.now)
    assert (trust(device) / FIRST_USE).read_text() == device.maker.roots[0]
    for path in (trust(device), *trust(device).iterdir()):
        assert path.stat().st_mode & 0o077 == 0, "its owner alone"


def test_an_enrolled_device_takes_no_other_root_even_at_its_first_push(tmp_path: Path) -> None:
    mine, other = Maker(), Maker(keys={r: [key(f"other {r}")] for r in Maker().keys})
    root = Root(tmp_path / "root")
    root.create()
    folder = root.path / layout.TRUST
    folder.mkdir()
    (folder / ENROLLED).write_text(mine.roots[0])
    assert describe_trust(root)["how"] == "enrolled"
    assert describe_trust(root)["root"] == 1
    stranger = Device(root, other)
    other.sign(FIRST.manifest, 9)
    before = snapshot(root.path)
    code, answer = stranger.offer(FIRST, other.made())
    assert code == 4
    assert "not signed by enough keys" in answer["what"]
    assert {p for p in snapshot(root.path) if "trust" in p} == {p for p in before if "trust" in p}
    Device(root, mine).push(FIRST, 1)
    assert not (folder / FIRST_USE).exists()
    assert describe_trust(root)["how"] == "enrolled"


def test_enroll_again_with_another_root_ends_what_was_kept(device: Device) -> None:
    other = Maker(keys={r: [key(f"other {r}")] for r in device.maker.keys})
    (trust(device) / ENROLLED).write_text(other.roots[0])
    assert read_trust(trust(device)).kept is None
    assert offered(device) == 4
    device.maker = other
    assert offered(device) == 0


def test_nothing_is_activated_where_nothing_was_verified(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.create()
    root.store.put(FIRST.manifest)
    with pytest.raises(VerificationError, match="without signed metadata"):
        check_activation(root, FIRST.digest)


def test_enroll_after_a_first_push_keeps_what_was_seen(device: Device) -> None:
    """It puts the newest root there, which the chain of the first push had led to."""
    old = device.maker.copy()
    device.maker.rotate("targets", "new targets")
    assert offered(device) == 0
    (trust(device) / ENROLLED).write_text(device.maker.roots[-1])
    assert describe_trust(device.root)["how"] == "enrolled"
    assert device.verb("stage", FIRST.digest)[0] == 0
    old.roots = device.maker.roots
    old.sign(NEXT.manifest, GOOD + 1)
    assert device.offer(NEXT, old.made())[0] == 4, "older metadata"
    assert offered(device) == 0
    assert read_trust(trust(device)).kept is not None


def test_state_says_what_a_stolen_ssh_key_could_do(device: Device) -> None:
    assert describe_trust(device.root)["ssh_key"] == "full control"
    for word, said in (("systemd-user", "full control"), ("systemd-system", "the updater's verbs")):
        (device.root.path / layout.SUPERVISOR_FILE).write_text(f"{word}\n")
        assert describe_trust(device.root)["ssh_key"] == said


# --- a ROOT of before


def test_releases_of_before_stay_usable_as_current_and_previous_and_a_push_takes_over(
    tmp_path: Path,
) -> None:
    """A ROOT that an agent of before wrote: no etc/trust, no table of counters."""
    root = Root(tmp_path / "root")
    root.create()
    releases = Releases(root.path)
    old = [bundle("old 1"), bundle("old 2"), bundle("old 3")]
    for one in old:
        root.store.put(one.manifest)
        root.release(one.digest).mkdir()
        releases.stage(one.digest, "tiny", "1")
        releases.move(one.digest, ReleaseEvent.ACTIVATE)
        releases.move(one.digest, ReleaseEvent.ANSWERED)
    replace_link(root.current, str(layout.release(old[0].digest)))
    replace_link(root.previous, str(layout.release(old[1].digest)))
    check_activation(root, old[0].digest)
    check_activation(root, old[1].digest)
    with pytest.raises(VerificationError, match="without signed metadata"):
        check_activation(root, old[2].digest)
    assert describe_trust(root)["how"] == "none"
    device = Device(root, Maker())
    device.push(NEXT, 1)
    code, answer = device.verb("stage", NEXT.digest)
    assert code == 0, answer
    check_activation(root, NEXT.digest)
    check_activation(root, old[1].digest)


# --- counters


def test_a_counter_counts_once_its_release_was_good(device: Device) -> None:
    device.push(NEXT, GOOD + 9)
    assert device.verb("stage", NEXT.digest)[0] == 0
    assert Counters(device.root.path).highest() == GOOD, "staged is not good"
    third = bundle("third")
    device.push(third, GOOD + 1)
    assert device.verb("stage", third.digest)[0] == 0
    device.make_good(NEXT)
    assert Counters(device.root.path).highest() == GOOD + 9
    assert device.verb("stage", third.digest)[0] == 4


def test_a_kill_between_the_verdict_and_its_counter_loses_nothing(device: Device) -> None:
    device.push(NEXT, GOOD + 1)
    assert device.verb("stage", NEXT.digest)[0] == 0
    releases = Releases(device.root.path)
    releases.move(NEXT.digest, ReleaseEvent.ACTIVATE)
    releases.move(NEXT.digest, ReleaseEvent.ANSWERED)
    assert Counters(device.root.path).highest() == GOOD + 1


def test_a_signed_rollback_entry_goes_back_and_the_newest_counter_stays(device: Device) -> None:
    assert offered(device, GOOD - 2) == 4
    assert offered(device, GOOD - 2, rollback=GOOD - 1) == 4
    assert offered(device, GOOD - 2, rollback=GOOD) == 0
    for data in NEXT.blobs:
        device.root.store.put(data)
    assert device.verb("stage", NEXT.digest)[0] == 0
    check_activation(device.root, NEXT.digest)
    device.make_good(NEXT)
    assert Counters(device.root.path).highest() == GOOD


def test_what_runs_may_be_offered_again_after_a_rollback(device: Device) -> None:
    """With other settings: that installs nothing. Another older release is refused."""
    device.push(NEXT, GOOD + 1)
    assert device.verb("stage", NEXT.digest)[0] == 0
    device.make_good(NEXT)
    replace_link(device.root.current, str(layout.release(FIRST.digest)))
    device.maker.bump()
    assert device.offer(FIRST, device.maker.made())[0] == 0
    replace_link(device.root.current, str(layout.release(NEXT.digest)))
    device.maker.bump()
    assert device.offer(FIRST, device.maker.made())[0] == 4


def test_a_release_may_be_signed_again_with_a_higher_counter(device: Device) -> None:
    device.push(FIRST, GOOD + 3)
    assert device.verb("stage", FIRST.digest)[0] == 0
    assert Counters(device.root.path).highest() == GOOD + 3


# --- hardware


def test_hardware_is_the_platform_and_the_lines_of_a_file(device: Device) -> None:
    own = hardware_names(device.root)
    assert len(own) == 1
    (device.root.path / layout.HARDWARE_FILE).write_text("# a comment\n\n pi5 \nlab-7\n")
    assert hardware_names(device.root) == [*own, "pi5", "lab-7"]
    device.maker.sign(NEXT.manifest, GOOD + 1, hardware=["pi5"])
    device.maker.bump()
    assert device.offer(NEXT, device.maker.made())[0] == 0


# --- clocks, on a device


@pytest.mark.parametrize("clock", [0.0, 4_070_908_800.0])
def test_a_clock_at_1970_or_2099_stops_no_release_that_was_good(
    device: Device, monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    monkeypatch.setattr(time, "time", lambda: clock)
    check_activation(device.root, FIRST.digest)
    said = describe_trust(device.root)
    assert bool(said["warnings"]) == (clock > 0)
    assert offered(device) == (4 if clock else 0)


def test_a_year_offline_then_a_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    device = make_device(tmp_path / "root", now)
    monkeypatch.setattr(time, "time", lambda: now + 366 * DAY)
    device.maker.bump()
    code, answer = device.offer(NEXT, device.maker.made())
    assert code == 4
    assert "has expired" in answer["what"]
    assert "push" in answer["next"]
    with pytest.raises(VerificationError):
        permission.permitted(device.root, FIRST.digest)
    check_activation(device.root, FIRST.digest)
    device.maker.now = now + 366 * DAY
    device.maker.sign(NEXT.manifest, GOOD + 1)
    device.maker.bump()
    code, answer = device.offer(NEXT, device.maker.made())
    assert code == 0, answer
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert describe_trust(device.root)["signed_at"] == int(now + 366 * DAY)


def test_half_of_a_life_is_said_in_the_answer_of_an_offer(tmp_path: Path) -> None:
    device = make_device(tmp_path / "root", time.time())
    device.maker.life["targets"] = 0.4
    device.maker.sign(NEXT.manifest, GOOD + 1)
    device.maker.bump()
    code, answer = device.offer(NEXT, device.maker.made())
    assert code == 0
    (warning,) = answer["warnings"]
    assert warning.startswith("targets.json is past half of its life")
    assert describe_trust(device.root)["warnings"] == [warning]


# --- crashes and damage


def test_a_crash_between_the_files_of_a_first_offer_converges(tmp_path: Path) -> None:
    device = make_device(tmp_path / "root")
    (trust(device) / TRUSTED).unlink()
    assert describe_trust(device.root)["root"] == 1
    assert device.verb("stage", FIRST.digest)[0] == 4, "nothing says what may run"
    assert offered(device) == 0
    assert device.verb("stage", FIRST.digest)[0] == 0


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_damage_of_what_is_kept_is_repaired_by_the_next_offer(device: Device, place: int) -> None:
    path = trust(device) / TRUSTED
    data = bytearray(path.read_bytes())
    data[len(data) * place // 100] ^= 1
    path.write_bytes(data)
    describe_trust(device.root)
    assert offered(device) == 0
    assert read_trust(trust(device)).kept is not None


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"{}", b"null", b"[" * 10_000])
def test_a_first_root_that_is_damaged_is_said_and_trusts_nobody(
    device: Device, data: bytes
) -> None:
    (trust(device) / FIRST_USE).write_bytes(data)
    code, answer = device.offer(NEXT, Maker().made())
    assert code == 4
    assert answer["next"]
    describe_trust(device.root)


@pytest.mark.parametrize("name", [FIRST_USE, TRUSTED])
def test_a_folder_in_place_of_a_file_does_not_end_state(device: Device, name: str) -> None:
    (trust(device) / name).unlink()
    (trust(device) / name).mkdir()
    told = describe_trust(device.root)
    assert (told["how"] == "damaged") is (name == FIRST_USE)
    assert all("Errno" not in str(warning) for warning in told["warnings"])  # type: ignore[attr-defined]  # a list


def test_the_kept_files_are_written_whole_and_only_when_they_changed(device: Device) -> None:
    assert offered(device) == 0
    before = snapshot(trust(device))
    stamp = (trust(device) / TRUSTED).stat().st_mtime_ns
    assert device.offer(NEXT, device.maker.made())[0] == 0
    assert snapshot(trust(device)) == before
    assert (trust(device) / TRUSTED).stat().st_mtime_ns == stamp


def test_no_other_account_writes_to_what_a_device_runs(tmp_path: Path) -> None:
    """Whatever the umask is: ROOT itself may have been made by hand, and be open to others."""
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "edgekit.agent", "state", "--root", tmp_path],
        preexec_fn=lambda: os.umask(0),
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["current"] is None
    for path in tmp_path.rglob("*"):
        assert not path.stat().st_mode & 0o022, path


# --- what a verb costs


@pytest.mark.parametrize("verb", ["state", "stop"])
def test_verbs_that_verify_nothing_do_not_import_tuf(device: Device, verb: str) -> None:
    script = (
        "import sys; from edgekit.agent import __main__ as a\n"
        f"args = a._parser('').parse_args([{verb!r}, '--root', {str(device.root.path)!r}])\n"
        "args.run(args); import edgekit.agent.release.supervisor.watch\n"
        "print([m for m in ('tuf', 'securesystemslib', 'urllib3', 'cryptography') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_state_says_what_is_trusted(device: Device) -> None:
    code, answer = device.verb("state")
    assert code == 0
    said = json.loads(msgspec.json.encode(answer["trust"]))
    assert said["root"] == 1
    assert set(said["expires"]) == {"root", "targets", "snapshot", "timestamp"}
    (line,) = _trust_lines(said)
    assert line.startswith("trust      root 1, from the first push; newest good counter 5;")
    (trust(device) / TRUSTED).unlink()
    (trust(device) / FIRST_USE).unlink()
    (line,) = _trust_lines(describe_trust(device.root))
    assert "no root of trust" in line
    (trust(device) / FIRST_USE).write_bytes(b"")
    (line,) = _trust_lines(describe_trust(device.root))
    assert "trusts no release" in line
    assert _trust_lines(None) == []
