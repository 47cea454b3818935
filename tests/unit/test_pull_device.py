"""The device's side of pull mode without processes: decisions, bounds, and files."""

from __future__ import annotations

import subprocess
import time
from itertools import pairwise
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from edgekit.agent.release.desired.decide import (
    RETRY_BAD_SECONDS,
    Bring,
    Desired,
    Leave,
    ReleaseStanding,
    decide,
    encode_desired,
    parse_desired,
)
from edgekit.agent.release.desired.schedule import (
    BURST,
    CHANGE_SECONDS,
    CHANGES,
    MOST_RETRY_SECONDS,
    Follow,
)
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.update import _Report, standing_of
from edgekit.agent.serve.loop.desiredfile import (
    NOTHING_SECONDS,
    SETTLE_SECONDS,
    WRITE_SECONDS,
    DesiredFile,
)
from edgekit.core import layout
from edgekit.core.config import (
    AgentConfig,
    PullConfig,
    encode_agent_config,
    known_settings,
    parse_agent_config,
    parse_known_agent_config,
    settings_in,
    used_settings,
)
from edgekit.core.digest import Digest
from edgekit.core.protocol import topics
from edgekit.core.protocol.payloads import MAX_DESIRED_BYTES, UpdatePayload
from edgekit.core.protocol.wire import Inbound
from edgekit.core.registry import parse_registry, tag_of
from edgekit.core.release import ReleaseEvent, ReleaseState
from edgekit.store import replace_link

NEW, OLD = Digest.of(b"new"), Digest.of(b"old")
PULL = PullConfig("registry.example/fleet/models", groups=["first", "second"])


def desired(order: int = 1, *, switch: bool = True, release: Digest = NEW) -> Desired:
    return Desired(release, "new:1", 7, order, switch)


# --- what is decided --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("found", "what"),
    [
        (ReleaseStanding(OLD), Bring(True)),
        (ReleaseStanding(None), Bring(True)),
        (ReleaseStanding(OLD, ReleaseState.STAGED), Bring(True)),
        (ReleaseStanding(OLD, ReleaseState.GOOD), Bring(True)),
        (ReleaseStanding(NEW, ReleaseState.GOOD), Leave("good")),
        (ReleaseStanding(NEW, ReleaseState.GOOD, "bad settings"), Leave("failed", "bad settings")),
        (ReleaseStanding(NEW, ReleaseState.TRIAL, soak_seconds=9.0), Leave("trial", "", 9.0)),
        (ReleaseStanding(OLD, ReleaseState.TRIAL), Leave("trial")),
        (
            ReleaseStanding(OLD, ReleaseState.TRIAL, unproven="no broker"),
            Leave("unproven", "no broker"),
        ),
        (ReleaseStanding(OLD, ReleaseState.BAD, "it died", 10.0), Leave("failed", "it died")),
        (ReleaseStanding(OLD, ReleaseState.BAD, "it died", RETRY_BAD_SECONDS), Bring(True)),
        (
            ReleaseStanding(OLD, ReleaseState.BAD, "it died", RETRY_BAD_SECONDS, ended="failed"),
            Leave("failed", "it died"),
        ),
        (
            ReleaseStanding(OLD, ReleaseState.GOOD, ended="good"),
            Leave("failed", "it was good here, and the device has left it since"),
        ),
        (ReleaseStanding(OLD, ReleaseState.GOOD, ended="staged"), Bring(True)),
    ],
)
def test_what_a_device_does_about_its_desired_state(
    found: ReleaseStanding, what: Leave | Bring
) -> None:
    assert decide(desired(), found) == what


def test_without_a_switch_it_is_brought_alone() -> None:
    assert decide(desired(switch=False), ReleaseStanding(OLD)) == Bring(False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rubbish",
        b"{}",
        b"[]",
        b'{"release":"' + b"x" * MAX_DESIRED_BYTES + b'"}',
        encode_desired(desired()).replace(b"sha256:", b"sha1:"),
        encode_desired(desired(-1)),
        encode_desired(desired(1 << 60)),
        encode_desired(desired()).replace(b"true", b'"yes"'),
        b"[" * 1000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_desired_state_is_none(data: bytes) -> None:
    assert parse_desired(data) is None


def test_a_desired_state_of_a_later_version_is_read() -> None:
    told = msgspec.json.decode(encode_desired(desired())) | {"colour": "blue"}
    assert parse_desired(msgspec.json.encode(told)) == desired()


# --- the supervisor's part --------------------------------------------------------------------
class Updaters:
    """Starts that end as told."""

    def __init__(self, code: int | None = 0) -> None:
        self.code, self.starts = code, 0

    def start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        child = mock.Mock(returncode=self.code)
        child.poll.return_value = self.code
        return child


def follow(path: Path, updaters: Updaters) -> Follow:
    return Follow(updaters.start, path, 0.0, lambda: 0.5)


def test_the_updater_starts_when_the_desired_state_changes_and_not_again(tmp_path: Path) -> None:
    path, updaters = tmp_path / "desired", Updaters()
    one = follow(path, updaters)
    for now in range(100):
        one.tick(float(now))
    assert updaters.starts == 0, "without a desired state nothing is started"
    path.write_text("1")
    for now in range(100, 200):
        one.tick(float(now))
    assert updaters.starts == 1
    one.again()
    one.tick(200.0)
    assert updaters.starts == 2


def test_a_storm_of_desired_states_starts_few_updaters(tmp_path: Path) -> None:
    path, updaters = tmp_path / "desired", Updaters()
    one = follow(path, updaters)
    for second in range(3600):
        with path.open("a") as file:  # ext4 flushes a file that was truncated and written
            file.write("x")
        one.tick(float(second))
    assert updaters.starts <= BURST + 60, "one a minute after the first ones"


def test_failures_wait_longer_each_time_up_to_an_hour_also_in_a_storm(tmp_path: Path) -> None:
    path, updaters = tmp_path / "desired", Updaters(1)
    one = follow(path, updaters)
    at: list[int] = []
    for second in range(0, 2 * 86_400, 5):
        if second < 86_400 and second % 60 == 0:
            with path.open("a") as file:
                file.write("x")
        before = updaters.starts
        one.tick(float(second))
        if updaters.starts > before:
            at.append(second)
    first_day = [second for second in at if second < 86_400]
    assert len(first_day) <= 40, "a storm does not wear a device"
    gaps = [b - a for a, b in pairwise(at)]
    assert max(gaps) <= MOST_RETRY_SECONDS + 5
    assert gaps[-1] >= MOST_RETRY_SECONDS / 2


def test_a_change_is_looked_at_also_while_a_refused_one_waits(tmp_path: Path) -> None:
    path, updaters = tmp_path / "desired", Updaters(1)
    one, now = follow(path, updaters), 0.0
    path.write_text("refused")
    while updaters.starts < 9:
        one.tick(now := now + 5.0)
    one.tick(now := now + 600.0)
    assert updaters.starts == 9, "it waits for about an hour"
    one.again()
    one.tick(now := now + 5.0)
    assert updaters.starts == 9, "that is no other desired state"
    path.write_text("the next release")
    one.tick(now + 5.0)
    assert updaters.starts == 10


def test_one_updater_runs_at_a_time_and_ends_with_the_supervision(tmp_path: Path) -> None:
    path, updaters = tmp_path / "desired", Updaters(None)
    one = follow(path, updaters)
    path.write_text("1")
    for second in range(1000):
        one.tick(float(second))
        one.again()
    assert updaters.starts == 1
    child = one._child
    assert isinstance(child, mock.Mock)
    one.end()
    child.terminate.assert_called_once_with()


def test_a_change_ends_an_updater_that_runs_and_a_storm_does_not_keep_it_from_its_end(
    tmp_path: Path,
) -> None:
    path, updaters = tmp_path / "desired", Updaters(None)
    one = follow(path, updaters)
    ended = []
    for second in range(0, 7200, 10):
        with path.open("a") as file:  # ext4 flushes a file that was truncated and written
            file.write("x")
        child = one._child
        one.tick(float(second))
        if child is not None and child is not one._child:
            assert isinstance(child, mock.Mock)
            child.terminate.assert_called_once_with()
            ended.append(second)
    assert ended[0] == 10, "the next desired state is looked at, not the one before"
    assert updaters.starts == 1 + len(ended)
    assert len(ended) <= CHANGES + 2
    path.unlink()
    one.tick(7200.0 + CHANGE_SECONDS)
    assert one._child is None, "nothing is wanted any more"


# --- the agent's part -------------------------------------------------------------------------
def message(topic: str, payload: bytes) -> Inbound:
    return Inbound(topic, payload, retain=True)


class Agent:
    """A `DesiredFile` with a clock."""

    def __init__(self, folder: Path, config: PullConfig = PULL) -> None:
        self.desired, self.report = folder / "desired.json", folder / "update.json"
        self.file, self.now = DesiredFile("pi", config, self.desired, self.report), 0.0
        self.sent: list[bytes] = []

    def hear(self, topic: str, payload: bytes) -> None:
        self.file.take(message(topic, payload), self.now)

    def wait(self, seconds: float = WRITE_SECONDS + SETTLE_SECONDS + 1) -> None:
        for _ in range(int(seconds / 0.5)):
            self.now += 0.5
            if (out := self.file.tick(self.now)) is not None:
                assert (out.topic, out.retain) == (topics.update_topic("pi"), True)
                self.sent.append(out.payload)

    def has(self) -> Desired | None:
        return parse_desired(self.desired.read_bytes()) if self.desired.exists() else None


OWN, FIRST, SECOND = (
    topics.desired_topic("pi"),
    topics.group_desired_topic("first"),
    topics.group_desired_topic("second"),
)


def test_a_device_s_own_desired_state_wins_then_its_groups_in_their_order(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    assert agent.file.topics == (OWN, FIRST, SECOND)
    agent.file.connected(0.0)
    for order, topic in enumerate((SECOND, FIRST, OWN), 1):
        agent.hear(topic, encode_desired(desired(order)))
    agent.hear("edgekit/v1/desired/dev/other", encode_desired(desired(99)))
    agent.wait()
    assert agent.has() == desired(3)
    for topic, left in ((OWN, desired(2)), (FIRST, desired(1)), (SECOND, None)):
        agent.hear(topic, b"")
        agent.wait()
        assert agent.has() == left


@pytest.mark.parametrize("topic", [OWN, FIRST])
@pytest.mark.parametrize("how", ["unreadable", "unserved"])
def test_one_that_cannot_be_read_does_not_give_way_to_those_behind_it(
    tmp_path: Path, topic: str, how: str
) -> None:
    agent = Agent(tmp_path)
    agent.report.write_bytes(msgspec.json.encode(UpdatePayload(1, str(NEW), "fetching")))
    agent.file.connected(0.0)
    agent.hear(SECOND, encode_desired(desired(7)))
    agent.wait(30)
    assert (agent.has(), agent.file.trouble) == (desired(7), "")

    agent.file.disconnected()
    agent.file.connected(agent.now, (topic,) if how == "unserved" else ())
    agent.hear(SECOND, encode_desired(desired(8)))
    if how == "unreadable":
        agent.hear(topic, b'{"release": "of a later version"}')
    agent.wait(30)
    assert agent.has() is None, "it keeps what it runs, and begins nothing"
    assert topic in agent.file.trouble
    told = msgspec.json.decode(agent.sent[-1], type=UpdatePayload)
    assert (told.order, told.state) == (1, "waiting")
    assert topic in told.reason
    assert told.next
    on_disk = msgspec.json.decode(agent.report.read_bytes(), type=UpdatePayload)
    assert on_disk.state == "fetching", "the updater's own file stays as it is"

    agent.file.disconnected()
    agent.file.connected(agent.now)
    agent.hear(topic, encode_desired(desired(9)))
    agent.hear(SECOND, encode_desired(desired(8)))
    agent.wait(30)
    assert (agent.has(), agent.file.trouble) == (desired(9), "")
    assert msgspec.json.decode(agent.sent[-1], type=UpdatePayload).state == "fetching"


def test_a_device_that_has_never_pulled_says_that_it_cannot_read_what_it_shall_run(
    tmp_path: Path,
) -> None:
    agent = Agent(tmp_path)
    agent.file.connected(0.0)
    agent.hear(OWN, b"rubbish")
    agent.wait(30)
    (said,) = agent.sent
    told = msgspec.json.decode(said, type=UpdatePayload)
    assert (told.order, told.state, agent.has()) == (0, "waiting", None)
    agent.hear(OWN, b"")
    agent.wait(30)
    assert agent.sent == [said, b""], "the broker keeps it no longer than it is true"


def test_what_is_judged_already_stays_so_where_the_next_word_cannot_be_read(
    tmp_path: Path,
) -> None:
    agent = Agent(tmp_path)
    agent.report.write_bytes(msgspec.json.encode(UpdatePayload(1, str(NEW), "good")))
    agent.file.connected(0.0)
    agent.hear(OWN, b"rubbish")
    agent.wait(30)
    told = msgspec.json.decode(agent.sent[-1], type=UpdatePayload)
    assert told.state == "good"
    assert OWN in told.reason


def test_a_group_s_waits_for_the_device_s_own_which_may_come_behind_it(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.file.connected(0.0)
    agent.hear(FIRST, encode_desired(desired(1)))
    agent.wait(NOTHING_SECONDS - 1)
    assert agent.has() is None
    agent.hear(OWN, encode_desired(desired(2)))
    agent.wait(WRITE_SECONDS)
    assert agent.has() == desired(2)


def test_a_broker_that_was_lost_says_anew_what_counts(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.file.connected(0.0)
    agent.hear(OWN, encode_desired(desired(1)))
    agent.wait()
    agent.file.disconnected()
    agent.wait()
    assert agent.has() == desired(1), "an outage changes nothing"
    agent.file.connected(agent.now)
    agent.wait(NOTHING_SECONDS - 1)
    assert agent.has() == desired(1), "what it retains takes seconds over a slow link"
    agent.wait()
    assert agent.has() is None, "the broker retains it no more"


def test_a_disk_that_does_not_take_it_is_asked_again(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "run")
    agent.file.connected(0.0)
    agent.hear(OWN, encode_desired(desired(1)))
    agent.wait()
    agent.desired.parent.mkdir()
    agent.wait()
    assert agent.has() == desired(1)


def test_a_storm_costs_few_writes(tmp_path: Path) -> None:
    agent, writes = Agent(tmp_path), set()
    agent.file.connected(0.0)
    for order in range(400):
        agent.hear(OWN, encode_desired(desired(order)))
        agent.wait(0.5 if order % 20 else SETTLE_SECONDS + 0.5)
        if agent.desired.exists():
            writes.add(agent.desired.stat().st_ino)
    assert len(writes) <= agent.now / WRITE_SECONDS + 1


def test_the_report_goes_out_when_it_changes_and_after_each_connection(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.wait()
    assert agent.sent == []
    agent.report.write_bytes(data := msgspec.json.encode(UpdatePayload(1, str(NEW), "good")))
    agent.wait(30)
    assert agent.sent == [data]
    agent.file.connected(agent.now)
    agent.wait(30)
    assert agent.sent == [data, data]
    agent.report.write_bytes(b"x" * 10_000)
    agent.wait(30)
    assert agent.sent == [data, data], "what is too long is no report of ours"


def test_a_device_without_a_registry_listens_to_nothing(tmp_path: Path) -> None:
    agent = Agent(tmp_path, PullConfig())
    assert agent.file.topics == ()
    agent.hear(OWN, encode_desired(desired()))
    agent.wait()
    assert not agent.desired.exists()


def test_a_release_that_failed_under_a_clock_years_ahead_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(tmp_path)
    root.create()
    releases = Releases(root.path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10 * 365 * 86400)
    releases.stage(NEW, "new", "1")
    releases.begin(NEW, connected=True)
    releases.move(NEW, ReleaseEvent.FAILED, "it died")
    monkeypatch.setattr(time, "time", lambda: now)  # the clock is set right
    assert decide(desired(), standing_of(root, NEW)) == Bring(True)
    monkeypatch.setattr(time, "time", lambda: now + 10 * 365 * 86400 + 60)
    assert decide(desired(), standing_of(root, NEW)) == Leave("failed", "it died")


# --- what is reported -------------------------------------------------------------------------
def test_what_a_device_ran_before_is_what_it_ran_before_this_order(tmp_path: Path) -> None:
    """NEW was pulled before, and what came by a USB stick since is what a rollback goes back to."""
    root, stick = Root(tmp_path), Digest.of(b"stick")
    root.create()

    def report(order: int, runs: Digest) -> str:
        replace_link(root.current, str(layout.release(runs)))
        told = _Report(root, desired(order))
        told.write("good")
        return str(told.told["before"])

    assert report(1, OLD) == OLD
    assert report(1, NEW) == OLD  # it has switched
    assert report(2, NEW) == OLD
    assert report(3, stick) == stick
    assert report(3, NEW) == stick


# --- configuration ----------------------------------------------------------------------------
def test_the_table_pull_is_written_read_and_known() -> None:
    config = AgentConfig("pi", pull=PULL)
    assert parse_agent_config(encode_agent_config(config)) == config
    assert {"pull", "pull.registry", "pull.groups"} <= used_settings(config)
    assert used_settings(config) <= known_settings()
    assert "pull" not in used_settings(AgentConfig("pi")), "an older agent reads it"
    newer = encode_agent_config(config) + b'[broker]\ncolour = "blue"\n'
    newer = newer.replace(b"[pull]", b"[pull]\nshape = 1")
    assert parse_known_agent_config(newer) == config
    assert {"pull.shape", "broker.colour"} <= settings_in(newer)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("registry.example/a/b", "https://registry.example/a/b"),
        ("https://registry.example:5000/a", "https://registry.example:5000/a"),
        ("http://127.0.0.1:5000/a-b_c.d", "http://127.0.0.1:5000/a-b_c.d"),
        ("http://[::1]:5000/a", "http://[::1]:5000/a"),
        ("localhost:443/a", "https://localhost/a"),
    ],
)
def test_addresses_of_registries(text: str, whole: str) -> None:
    assert str(parse_registry(text)) == whole


@pytest.mark.parametrize(
    "text",
    ["registry.example", "registry.example/A", "ftp://x/a", "x:99999/a", "x/a//b", "x/a?b",
     "http://registry.example/a", "user@x/a", "x/" + "a" * 256, "x/a\n"],
)  # fmt: skip
def test_what_is_no_address_of_a_registry(text: str) -> None:
    with pytest.raises(ValueError, match="registry"):
        parse_registry(text)
    with pytest.raises(ValueError, match="registry"):
        PullConfig(text)


def test_plain_http_is_taken_where_it_is_said() -> None:
    assert PullConfig("http://registry.example/a", plain_http=True).plain_http


@pytest.mark.parametrize(
    "bad",
    [{"password_file": "x"}, {"ca_file": "x"}, {"groups": ["a b"]}, {"mbit_per_second": -1.0}],
)
def test_values_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad)).removesuffix("s")):
        PullConfig("registry.example/a", **bad)  # type: ignore[arg-type]  # what is tested


def test_a_tag_has_the_letters_that_a_registry_takes() -> None:
    assert tag_of("smollm2", "2.0+cpu") == "smollm2-2.0-cpu"
    assert tag_of("-.", "") == "bundle"
