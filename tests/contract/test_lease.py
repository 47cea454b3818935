"""Two operators and one device: real sessions over a real sshd, through the device's door."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from edgekit.agent.release import holder
from edgekit.core.lease import LEASE_SECONDS, LeaseWish
from edgekit.errors import EdgekitError
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.held import LeaseHeldError
from edgekit.fleet.lease import Lease
from tests.harness.box import config_bytes
from tests.harness.door import Place, device_with_door

pytestmark = pytest.mark.timeout(120)

ADA = LeaseWish("ada0" * 4, "ada@desk", "rollout-7")
BOB = LeaseWish("b0b0" * 4, "bob@night", "rollout-3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with device_with_door(tmp_path_factory.mktemp("door"), tmp_path_factory.mktemp("a")) as place:
        yield place


@pytest.fixture
def place(whole: Place) -> Place:
    """A device that nobody holds, and that runs its first release."""
    whole.box.root.holder_file.unlink(missing_ok=True)
    if whole.box.root.linked(whole.box.root.current) != whole.good:
        assert whole.box.activate(whole.good)[0] == 0
    return whole


def activate(driver: DeviceDriver, release: str) -> object:
    told = driver.call("activate", release, "--config", "-", stdin=config_bytes(), seconds=60.0)
    return told["state"]


def test_the_second_operator_is_told_and_changes_nothing(place: Place) -> None:
    next_one = place.box.stage("good lease")
    with place.driver() as ada, place.driver() as bob:
        ada.take_lease(ADA)
        with pytest.raises(
            LeaseHeldError, match=r"ada@desk \(rollout-7\) holds the device"
        ) as held:
            bob.take_lease(BOB)
        assert "since " in held.value.why
        assert "until " in held.value.why
        assert "--lock-wait" in held.value.next_step
        for verb in (["activate", next_one, "--config", "-"], ["rollback"]):
            with pytest.raises(EdgekitError, match=r"ada@desk .* holds this device"):
                bob.call(*verb, stdin=config_bytes())
        assert bob.call("state")["lease"]["holder"] == "ada@desk"  # to look is free
        assert activate(ada, next_one) == "good"
        assert bob.call("state")["lease"] is None  # the trial is over
        bob.take_lease(BOB)
        assert activate(bob, place.good) == "good"


def test_a_rollout_whose_controller_died_takes_its_own_device_at_once(place: Place) -> None:
    next_one = place.box.stage("good again")
    with place.driver() as ada:
        ada.take_lease(ADA)
    with place.driver() as bob, place.driver() as ada:
        with pytest.raises(LeaseHeldError):
            bob.take_lease(BOB)
        with pytest.raises(EdgekitError, match="holds this device"):
            activate(ada, next_one)  # this session has not said yet that it is ada's
        ada.take_lease(ADA)
        assert activate(ada, next_one) == "good"


def test_a_soak_keeps_the_device_and_ends_by_itself(place: Place) -> None:
    next_one = place.box.stage("good soak", soak_seconds=2.0)
    with place.driver() as ada, place.driver() as bob:
        ada.take_lease(ADA)
        activate(ada, next_one)
        with pytest.raises(LeaseHeldError):
            bob.take_lease(BOB)
        left = bob.call("state")["lease"]["left_seconds"]
        assert 0 < left < LEASE_SECONDS / 2


def test_whoever_is_taken_over_is_told_and_changes_nothing_any_more(place: Place) -> None:
    next_one = place.box.stage("good over")
    with place.driver() as ada, place.driver() as bob:
        ada.take_lease(ADA)
        bob.take_lease(msgspec.structs.replace(BOB, take_over=True))
        with pytest.raises(EdgekitError, match=r"bob@night .* holds this device"):
            activate(ada, next_one)
        bob.give_lease(BOB.id)
        with pytest.raises(EdgekitError, match="bob@night took this device over"):
            activate(ada, next_one)
        with place.driver() as again, pytest.raises(LeaseHeldError, match="bob@night took") as told:
            again.take_lease(ADA)
        assert told.value.answer.taken_over_by == "bob@night"
        with place.driver() as next_rollout:
            next_rollout.take_lease(msgspec.structs.replace(ADA, about="rollout-8"))
            assert activate(next_rollout, next_one) == "good"


def test_one_can_wait_for_another(place: Place) -> None:
    with place.driver() as ada, place.driver() as bob:
        ada.take_lease(ADA)
        lease = Lease(BOB, wait_seconds=30.0)
        said: list[str] = []
        threading.Timer(1.0, lambda: ada.give_lease(ADA.id)).start()
        lease.waiting(lambda: lease.take(bob), said.append)
        assert bob.leased
        assert said[0].startswith("waits for ada@desk (rollout-7), ")
        assert bob.call("state")["lease"]["holder"] == "bob@night"


def test_waiting_ends_with_its_time_and_when_it_is_told_to(place: Place) -> None:
    with place.driver() as ada, place.driver() as bob:
        ada.take_lease(ADA)
        for lease in (Lease(BOB, wait_seconds=0.5), Lease(BOB, wait_seconds=60.0)):
            if lease.wait_seconds > 1:
                threading.Timer(0.5, lease.ended.set).start()
            began = time.monotonic()
            with pytest.raises(LeaseHeldError):
                lease.waiting(lambda: lease.take(bob), lambda _: None)  # noqa: B023  it is called at once
            assert time.monotonic() - began < 20


def test_a_door_lets_no_other_words_in(place: Place) -> None:
    with place.driver() as thief:
        for words in (
            ["--take", "x"],
            ["--take", ADA.id, "--holder", "$(id)", "--about", "a", "--seconds", "1"],
            ["--take", ADA.id, "--holder", "a", "--about", "a", "--seconds", "-1"],
            ["--give", "../../etc"],
        ):
            with pytest.raises(EdgekitError):
                thief.call("lease", *words)
        with pytest.raises(EdgekitError, match="cannot be taken in these words"):
            thief.take_lease(msgspec.structs.replace(ADA, seconds=999_999.0))
    assert holder.held(place.box.root) is None


def test_an_agent_from_before_leases_is_pushed_to_all_the_same(place: Place) -> None:
    """Its door does not know the verb: the real door is asked for one that it does not know."""
    with place.driver() as driver:
        known = driver.call
        driver.call = lambda verb, *words: known("no-verb", *words)  # type: ignore[method-assign]  # an older door
        driver.take_lease(ADA)
        assert not driver.leased
