"""The controller's side of pull mode: fleet.toml, rights at the broker, and which hands act."""

from __future__ import annotations

import time
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from edgekit.agent.release.desired.decide import parse_desired
from edgekit.broker.mosquitto import BrokerSetup, acl_file, dynamic_security, operators
from edgekit.core.config import BrokerConfig, PullConfig
from edgekit.core.digest import Digest
from edgekit.core.protocol import topics, wire
from edgekit.core.protocol.payloads import DesiredPayload, UpdatePayload, UpdateState
from edgekit.core.quality import QualityReport, QualityScore
from edgekit.errors import EdgekitError, UnreachableError, UsageError, VerificationError
from edgekit.fleet.drive import connect
from edgekit.fleet.inventory import Fleet, load
from edgekit.fleet.pulling import roads
from edgekit.fleet.pulling.desk import Heard, PullDesk
from edgekit.fleet.pulling.hands import PullHands
from edgekit.fleet.pulling.roads import DeskHands, RoadHands
from edgekit.fleet.rollout.book import RolloutBook
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import (
    AbortOrdered,
    DeviceAway,
    DeviceBack,
    DeviceFailed,
    DeviceGood,
    GoBackOn,
    HookEnded,
    QualityTold,
    ResumeOrdered,
    RollbackOrdered,
    RolloutStarted,
)
from edgekit.fleet.rollout.hands import PushHands
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.waves import RolloutPlan, Terms

FLEET = """
[pull]
registry = "registry.example/models"
username = "{device}"
[devices.near]
address = "ssh:near"
[devices.far]
address = "pull:"
pull = { mbit_per_second = 4.0 }
[devices.other]
address = "pull:"
[groups]
all = ["near", "far"]
[groups.site]
members = ["far"]
pull = { registry = "http://127.0.0.1:5000/models" }
"""


def fleet(folder: Path, text: str = FLEET) -> Fleet:
    (folder / "fleet.toml").write_text(text)
    return load(folder / "fleet.toml")


def test_from_where_a_device_pulls_and_which_groups_it_follows(tmp_path: Path) -> None:
    made = fleet(tmp_path)
    assert [name for name, device in made.devices.items() if device.pulls] == ["far", "other"]
    assert made.pull_of("far") == PullConfig(
        "http://127.0.0.1:5000/models", "far", groups=["all", "site"], mbit_per_second=4.0
    )
    assert made.pull_of("near") == PullConfig("registry.example/models", "near", groups=["all"])
    assert made.pull_of("other").groups == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[devices.a]\naddress = "pull:"\n', r"names no registry"),
        ('[devices.a]\naddress = "pull:somewhere"\n', "pull: for a device that pulls"),
        ('[pull]\ncolour = "red"\n', "colour"),
        ('[pull]\nregistry = 5\n', "registry"),
        ('[devices.a]\naddress = "ssh:a"\npull = { shape = 1 }\n', "shape"),
        ('[pull]\nregistry = "http://far/m"\n[devices.a]\naddress = "pull:"\n', "plain http"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_fleet_toml_is_named(text: str, named: str, tmp_path: Path) -> None:
    def use() -> None:
        made = fleet(tmp_path, text)
        for name in made.devices:
            made.pull_of(name)

    with pytest.raises(UsageError) as caught:
        use()
    assert named in str(caught.value)


def test_nobody_connects_to_a_device_that_pulls(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="nobody connects"):
        connect(fleet(tmp_path).devices["far"])


# --- rights -----------------------------------------------------------------------------------
SETUP = BrokerSetup(
    devices={"far": (), "near": ()},
    requesters=("alice",),
    operators=("boss",),
    groups={"far": ("all",)},
    folder="/etc/m",
    data="/d",
    cert_file="c",
    key_file="k",
    ca_file="a",
)
OWN, GROUP = topics.desired_topic("far"), topics.group_desired_topic("all")


def test_the_acl_file_gives_an_operator_desired_states_and_discovery_alone() -> None:
    text = acl_file(SETUP)
    far, near, boss = (text.partition(f"user {name}\n")[2].partition("\nuser ")[0] for name in
                       ("far", "near", "boss"))  # fmt: skip
    assert f"topic read {OWN}\n" in far
    assert f"topic read {GROUP}\n" in far
    assert "desired" not in near, "a device that does not pull reads none"
    writes = [line for line in boss.splitlines() if line.startswith("topic write")]
    assert writes == [
        f"topic write {topics.desired_topic('+')}",
        f"topic write {topics.group_desired_topic('+')}",
        f"topic write {topics.discovery_topic('+')}",
    ]
    assert text.count("topic write edgekit/v1/desired") == 2, "nobody else may"


def test_so_do_the_roles_of_dynamic_security() -> None:
    told = msgspec.json.decode(dynamic_security(SETUP, []))
    roles = {role["rolename"]: role["acls"] for role in told["roles"]}
    sends = {name: [acl["topic"] for acl in acls if acl["acltype"] == "publishClientSend"]
             for name, acls in roles.items()}  # fmt: skip
    assert sends["boss"] == [
        topics.desired_topic("+"), topics.group_desired_topic("+"), topics.discovery_topic("+"),
    ]  # fmt: skip
    assert not any("desired" in topic for name in ("alice", "far") for topic in sends[name])
    heard = {acl["topic"] for acl in roles["far"]}
    assert {OWN, GROUP} <= heard
    assert not any("desired" in acl["topic"] for acl in (*roles["near"], *roles["alice"]))


def test_an_operator_has_an_account_for_that_alone() -> None:
    assert operators(["boss", "boss"], ["alice"]) == ("boss",)
    with pytest.raises(UsageError, match="cannot be an operator as well"):
        operators(["alice"], ["alice", "far"])


# --- hands ------------------------------------------------------------------------------------
def test_each_device_is_acted_on_by_its_own_hands() -> None:
    push, pull = mock.Mock(spec=PushHands), mock.Mock(spec=PullHands)
    near, far, error = mock.Mock(), mock.Mock(), EdgekitError("away")
    push.done, push.failed, push.enrolled = {"near": near}, {}, {"near": True}
    pull.done, pull.failed = {"far": far}, {"other": error}
    push.hook = lambda wave, after: HookEnded(f"{wave}{after}")
    hands = RoadHands(push, pull, ["far", "other"])
    for act in ("stage", "switch", "verdict", "quality", "let_go"):
        for device, hand in (("near", push), ("far", pull)):
            getattr(hands, act)(device)
            getattr(hand, act).assert_called_once_with(device)
            getattr(hand, act).reset_mock()
    hands.go_back("far", None)
    pull.go_back.assert_called_once_with("far", None)
    assert hands.done == {"near": near, "far": far}
    assert hands.failed == {"other": error}
    assert hands.hook(1, True) == HookEnded("1True")
    hands.stop()
    push.stop.assert_called_once_with()
    pull.stop.assert_called_once_with()


def test_word_is_left_for_devices_that_were_away_when_a_rollout_is_done() -> None:
    release, desk = Digest.of(b"r"), mock.Mock()
    desk.next_order.return_value = 5
    hands = PullHands(release, "r:1", 3, desk, lambda _: "", mock.Mock(), mock.Mock())
    plan = RolloutPlan(release, [["a", "b"]], {"a": "", "b": ""}, Terms())
    rollout = Rollout(plan)
    sent: list[tuple[str, DesiredPayload]] = []
    for phase in RolloutPhase:
        rollout.phase = phase
        desk.next_order.return_value = 5
        rollout.devices["a"].state = DeviceState.GOOD
        rollout.devices["b"].state = DeviceState.AWAY
        desk.wait.return_value = Heard()
        said = hands.leave_word(rollout, ["a", "b"])
        assert [line.partition(" ")[0] for line in said] == ["b"] * (phase == RolloutPhase.DONE)
        gone = phase in (RolloutPhase.BACK, RolloutPhase.ABORTED)
        taken_back = mock.call(topics.desired_topic("b"), None) in desk.say.mock_calls
        assert taken_back == gone, phase
        told = [call.args for call in desk.say.mock_calls if call.args[1] is not None]
        assert bool(told) == (phase == RolloutPhase.DONE)
        sent = sent or told
        desk.reset_mock()
    [(topic, payload)] = sent
    assert topic == topics.desired_topic("b")
    assert (payload.release, payload.order, payload.switch) == (release, 5, True)


@pytest.mark.parametrize("switched", [False, True])
def test_a_device_with_a_window_that_was_away_is_not_told_to_switch_at_any_time(
    switched: bool,
) -> None:
    release, desk = Digest.of(b"r"), mock.Mock()
    desk.next_order.return_value = 5
    hands = PullHands(release, "r:1", 3, desk, lambda _: "", mock.Mock(), mock.Mock())
    windows = {"a": "22:00-05:00 UTC"}
    rollout = Rollout(RolloutPlan(release, [["a"]], {"a": ""}, Terms(), windows))
    rollout.phase = RolloutPhase.DONE
    rollout.devices["a"].state = DeviceState.AWAY
    rollout.devices["a"].switched = switched  # it was told so, within its window
    [said] = hands.leave_word(rollout, ["a"])
    assert desk.say.mock_calls == []
    assert "`edgekit resume 3`" in said


@pytest.mark.parametrize("act", ["switch", "verdict"])
@pytest.mark.parametrize("window", [False, True])
def test_no_word_to_switch_waits_for_a_device_that_is_away_and_has_a_window(
    act: str, window: bool
) -> None:
    """It went off within its window, and comes back at noon."""
    release, desk = Digest.of(b"r"), PullDesk(BrokerConfig())
    status = topics.status_topic("a")
    desk._received(wire.Inbound(status, b'{"state": "lost"}', retain=True))
    hands = PullHands(
        *(release, "r:1", 3, desk, lambda _: "", mock.Mock(), mock.Mock()),
        windows=["a"] if window else [],
    )
    with mock.patch.object(desk, "say") as say:
        assert isinstance(getattr(hands, act)("a"), DeviceAway)
    told = [call.args[1].switch for call in say.mock_calls]
    assert told == [True] * (act == "switch") + [False] * window


@pytest.mark.parametrize(
    ("state", "before", "signed", "goes_back"),
    [
        ("good", str(Digest.of(b"old")), True, True),
        ("trial", str(Digest.of(b"old")), True, True),
        ("good", str(Digest.of(b"old")), False, False),
        ("fetching", str(Digest.of(b"old")), True, False),  # it has not switched
        ("good", str(Digest.of(b"r")), True, False),  # it ran it already
        ("good", "", True, False),
        ("good", "nonsense", True, False),
    ],
)
def test_a_device_that_joined_late_goes_back_with_its_rollout(
    state: UpdateState, before: str, signed: bool, goes_back: bool
) -> None:
    release, old = Digest.of(b"r"), Digest.of(b"old")
    desk = PullDesk(BrokerConfig())
    update = UpdatePayload(7, str(release), state, current=str(release), before=before)
    report = msgspec.json.encode(update)
    desk._received(wire.Inbound(topics.update_topic("late"), report, retain=True))
    why = "" if signed else "no rollback entry"
    hands = PullHands(release, "r:1", 3, desk, lambda _: why, mock.Mock(), mock.Mock())
    rollout = Rollout(RolloutPlan(release, [["late"]], {"late": ""}, Terms()))
    rollout.devices["late"].state = DeviceState.AWAY
    rollout.phase = RolloutPhase.BACK
    with mock.patch.object(desk, "say") as say:
        said = hands.leave_word(rollout, ["late"])
    [(topic, payload)] = [call.args for call in say.mock_calls]
    assert topic == topics.desired_topic("late")
    assert (payload is not None) == goes_back
    if payload is not None:
        assert (payload.release, payload.switch) == (old, True)
    assert bool(said) == (goes_back or not signed), "a person hears of it"
    assert all(line.startswith("late joined late") for line in said)


def test_a_rollback_takes_back_a_device_that_a_resume_found_to_have_joined() -> None:
    release, old = Digest.of(b"r"), Digest.of(b"old")
    for before, back in ((old, [GoBackOn("late", old)]), (release, []), (None, [])):
        rollout = Rollout(RolloutPlan(release, [["late"]], {"late": ""}, Terms()))
        for event in (
            RolloutStarted("me"),
            DeviceAway("late", "off"),
            ResumeOrdered("me"),
            ResumeOrdered("me"),
            DeviceGood("late", before),
        ):
            rollout.handle(event, 0.0)
        assert rollout.phase == RolloutPhase.DONE
        assert list(rollout.handle(RollbackOrdered("me"), 1.0)) == back


def test_an_abort_takes_no_word_back_from_a_device_that_was_told_to_switch() -> None:
    desk = mock.Mock()
    hands = PullHands(Digest.of(b"r"), "r:1", 3, desk, lambda _: "", mock.Mock(), mock.Mock())
    rollout = Rollout(RolloutPlan(Digest.of(b"r"), [["a", "b"]], {"a": "", "b": ""}, Terms()))
    rollout.phase = RolloutPhase.ABORTED
    for name in ("a", "b"):
        rollout.devices[name].state = DeviceState.AWAY
    rollout.devices["a"].switched = True
    assert hands.leave_word(rollout, ["a", "b"]) == []
    assert desk.say.mock_calls == [mock.call(topics.desired_topic("b"), None)]


def test_a_rollback_takes_no_word_back_that_a_later_rollout_gave(tmp_path: Path) -> None:
    """The device was off all the time: its report says nothing of the later rollout."""
    release, old, book = Digest.of(b"r"), Digest.of(b"old"), RolloutBook(tmp_path)
    plan = RolloutPlan(release, [["a", "b"]], {"a": "", "b": ""}, Terms())
    begun = (RolloutStarted("me"), DeviceAway("a", "off"), DeviceFailed("b", "its disk is full"))
    told = []
    for further in ((), (), (RollbackOrdered("me"),), (AbortOrdered("me"),)):
        _, journal = book.create(plan, 0.0)
        for event in (*begun, *further):
            journal.append(event, 1.0)
        told.append(book.told_after(1))
    assert told == [{}, {"a": 2}, {"a": 2}, {"a": 2}], "one that went back or ended told nobody"
    assert book.told_after(2) == {}

    desk = PullDesk(BrokerConfig())
    update = UpdatePayload(7, str(release), "good", current=str(release), before=str(old))
    report = msgspec.json.encode(update)
    desk._received(wire.Inbound(topics.update_topic("a"), report, retain=True))
    hands = PullHands(
        *(release, "r:1", 1, desk, lambda _: "", mock.Mock(), mock.Mock()), later={"a": 2}
    )
    rollout = Rollout(plan)
    rollout.devices["a"].state = DeviceState.AWAY
    for rollout.phase in (RolloutPhase.BACK, RolloutPhase.ABORTED):
        with mock.patch.object(desk, "say") as say:
            [said] = hands.leave_word(rollout, ["a"])
            assert hands.go_back("a", old) == DeviceBack("a")
        assert say.mock_calls == []
        assert "rollout 2" in said


def test_an_operator_whose_account_hears_nothing_is_told_so() -> None:
    desk = PullDesk(BrokerConfig())
    refused = (topics.update_topic("+"),)
    with (
        mock.patch.object(desk._client, "connect"),
        mock.patch.object(desk._client, "close") as close,
        mock.patch.object(type(desk._client), "unserved", refused),
        pytest.raises(VerificationError, match="does not let this account read") as caught,
    ):
        desk.connect()
    assert refused[0] in caught.value.why
    assert "--operator NAME" in caught.value.next_step
    close.assert_called_once_with()


@pytest.mark.parametrize("told", [(1 << 53) - 1, (1 << 53) - 2, 1 << 52])
def test_an_order_that_a_device_made_up_counts_for_no_device(told: int) -> None:
    desk = PullDesk(BrokerConfig())
    report = msgspec.json.encode(UpdatePayload(told, str(Digest.of(b"r")), "good"))
    desk._received(wire.Inbound(topics.update_topic("liar"), report, retain=True))
    for device in ("before", "liar", "liar", "after"):
        payload = DesiredPayload(str(Digest.of(b"r")), "r:1", 3, desk.next_order(device), True)
        read = parse_desired(msgspec.json.encode(payload))
        assert read is not None, "the device can read it"
        assert read.order != told


def test_orders_of_a_device_grow_also_behind_a_controller_whose_clock_was_ahead() -> None:
    desk, given = PullDesk(BrokerConfig()), int((time.time() + 3600) * 1000)
    report = msgspec.json.encode(UpdatePayload(given, str(Digest.of(b"r")), "good"))
    desk._received(wire.Inbound(topics.update_topic("far"), report, retain=True))
    orders = [desk.next_order("far") for _ in range(3)]
    assert orders == [given + 1, given + 2, given + 3]
    assert desk.next_order("near") < given, "one device's order says nothing about another"


def test_a_device_that_pulls_says_its_quality_in_its_status() -> None:
    release = Digest.of(b"new")
    desk = PullDesk(BrokerConfig())
    hands = PullHands(release, "m:2", 1, desk, lambda _: "", mock.Mock(), mock.Mock())
    assert hands.quality("far") is None
    score = QualityScore(4, 0, 60, 50, 0.98, 0.01, 1.0, 0.0)
    for about in (Digest.of(b"old"), release):
        report = QualityReport(str(about), "before", score)
        status = wire.Status("ready", str(about), quality=report)
        topic = topics.status_topic("far")
        desk._received(wire.Inbound(topic, msgspec.json.encode(status), retain=True))
        told = hands.quality("far")
        assert (told is None) == (about != release)
    assert told == QualityTold("far", report)


def test_many_devices_do_not_wait_one_after_the_other_for_a_broker_that_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[float] = []

    def connect() -> PullHands:
        tried.append(0.0)
        raise UnreachableError("the broker does not answer", "timed out")

    hands = DeskHands(connect)
    for number in range(1000):
        event = hands.go_back(f"pi-{number}", None)
        assert event == DeviceAway(f"pi-{number}", "the broker does not answer: timed out")
    assert len(tried) == 1
    assert len(hands.failed) == 1000
    monkeypatch.setattr(roads, "AGAIN_SECONDS", 0.0)
    fresh = DeskHands(connect)
    fresh.go_back("pi", None)
    fresh.go_back("pi", None)
    assert len(tried) == 3
