"""What a rollout may expect of its hands: of real ones on a real device, and of the fake's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from edgekit.bundle.layout import Layout
from edgekit.cli import project as projects
from edgekit.cli.rollout.bring import configs_of, source_of
from edgekit.core.config import BrokerConfig
from edgekit.core.digest import Digest
from edgekit.errors import UnreachableError
from edgekit.fleet.drive import DeviceDriver, open_device
from edgekit.fleet.inventory import Fleet
from edgekit.fleet.pulling.desk import PullDesk
from edgekit.fleet.pulling.hands import PullHands
from edgekit.fleet.rollout.events import (
    DeviceAnswers,
    DeviceAway,
    DeviceBack,
    DeviceFailed,
    DeviceGood,
    DeviceStaged,
    HookEnded,
)
from edgekit.fleet.rollout.hands import PushHands, RolloutHands
from tests import tools
from tests.conftest import PACK, Project, make_project
from tests.fakes.rollout_fleet import BEFORE, FakeDevice
from tests.fakes.rollout_hands import FakeHands
from tests.faults.bad_release import SERVICE, make_bad, with_agent
from tests.harness.pull_site import pull_site

pytestmark = pytest.mark.timeout(600)
ENDS_AT_ONCE = {SERVICE: "\nraise SystemExit(3)\n"}
DEMO = "demo"


@dataclass
class Subject:
    """One device's hands: for a good release, for one that fails its trial, and without a road."""

    before: Digest
    good: RolloutHands
    bad: RolloutHands
    away: RolloutHands


def fake() -> Subject:
    def hands(**habits: object) -> FakeHands:
        return FakeHands({DEMO: msgspec.convert(habits, FakeDevice)})

    return Subject(BEFORE, hands(soak_seconds=0.0), hands(fails="switch"), hands(away=1000))


def no_road(fleet: Fleet, name: str) -> DeviceDriver:
    raise UnreachableError(f"{name}: nobody answers")


def real(made: Project) -> Subject:
    here = projects.find(made.folder)
    fleet = here.fleet()

    def hands(
        bundle: str, connect: Callable[[Fleet, str], DeviceDriver] = open_device
    ) -> PushHands:
        source = source_of(here, here.store.resolve(bundle))
        return PushHands(
            source.pinned.digest,
            source,
            partial(connect, fleet),
            configs_of(here, fleet, [DEMO]).__getitem__,
            lambda _device, _event: None,
            lambda _wave, _after: HookEnded(),
        )

    before = here.store.resolve("smollm2:1").digest
    return Subject(before, hands("again:2"), hands("bad:3"), hands("again:2", no_road))


@contextmanager
def pulling(folder: Path, model: Path) -> Iterator[Subject]:
    """Hands for a device that pulls; the hands without a road have a broker without devices."""
    with (
        pull_site(folder, model) as made,
        tools.mosquitto(folder) as empty,
        closing(PullDesk(made.operator)) as desk,
        closing(PullDesk(BrokerConfig("127.0.0.1", empty.port))) as nobody,
    ):
        make_others(made.project, model)
        made.project.edgekit("sign", "smollm2:1", "--rollback")
        for bundle in ("again:2", "bad:3"):
            made.project.edgekit("publish", bundle)
        desk.connect()
        nobody.connect()

        def hands(bundle: str, at: PullDesk = desk) -> PullHands:
            release = made.digest(bundle)
            return PullHands(
                release,
                bundle,
                1,
                at,
                lambda _release: "",
                lambda _device, _event: None,
                lambda _wave, _after: HookEnded(),
            )

        before = made.digest("smollm2:1")
        yield Subject(before, hands("again:2"), hands("bad:3"), hands("again:2", nobody))


def make_others(made: Project, model: Path) -> None:
    """A release that is good, and one whose agent ends at once."""
    made.edgekit("pack", str(model), "--name", "again", "--version", "2", *PACK)
    make_bad(Layout(made.store), "again:2", "bad:3", with_agent(ENDS_AT_ONCE))
    made.edgekit("sign", "bad:3")


@pytest.fixture(scope="module", params=["fake", "real", "pull"])
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    if request.param == "fake":
        yield fake()
        return
    smollm2: Path = request.getfixturevalue("smollm2")
    folder = tmp_path_factory.mktemp("hands")
    if request.param == "pull":
        with pulling(folder, smollm2) as made_to_pull:
            yield made_to_pull
        return
    with tools.mosquitto(folder) as broker:
        made = make_project(folder / "project", broker.port, smollm2)
        made.copy_root(smollm2)
        made.edgekit("push", DEMO)
        make_others(made, smollm2)
        with mock.patch.dict("os.environ", made.env):
            yield real(made)
        made.edgekit("stop", DEMO)


def test_a_device_is_staged_asked_switched_asked_and_goes_back(subject: Subject) -> None:
    hands = subject.good
    staged = DeviceStaged(DEMO, subject.before)
    assert hands.stage(DEMO) == staged
    hands.let_go(DEMO)
    assert hands.verdict(DEMO) == staged, "no switch has begun"
    assert hands.stage(DEMO) == staged, "twice is as once"
    # a device that pulls says by itself what it ran before
    good = (DeviceGood(DEMO), DeviceGood(DEMO, subject.before))
    answers = (*good, DeviceAnswers(DEMO, 0.0))
    assert hands.switch(DEMO) in answers
    assert hands.verdict(DEMO) in answers
    assert hands.switch(DEMO) in answers, "twice is as once"
    hands.let_go(DEMO)
    assert hands.stage(DEMO) in answers, "it runs there already"
    assert hands.go_back(DEMO, subject.before) == DeviceBack(DEMO)
    assert hands.go_back(DEMO, subject.before) == DeviceBack(DEMO), "twice is as once"
    assert hands.stage(DEMO) == staged


def test_a_device_that_fails_its_trial_says_so_also_when_it_is_asked_later(
    subject: Subject,
) -> None:
    hands = subject.bad
    assert hands.stage(DEMO) == DeviceStaged(DEMO, subject.before)
    failed = hands.switch(DEMO)
    assert isinstance(failed, DeviceFailed)
    assert failed.reason
    later = hands.verdict(DEMO)
    assert isinstance(later, DeviceFailed)
    assert later.reason


def test_a_device_that_cannot_be_reached_is_away_for_every_act(subject: Subject) -> None:
    hands = subject.away
    acts = (hands.stage, hands.switch, hands.verdict, partial(hands.go_back, before=None))
    for act in acts:
        assert isinstance(act(DEMO), DeviceAway)
