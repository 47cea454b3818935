"""A stolen SSH key of the push account: what it brings through the door is refused with 4.

Real sshd, the real door and the real verbs. The thief has whole, well-formed bundles, and says all
that a controller could say. `tests/system/test_units.py` has the same on a system install.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, VerificationError
from edgekit.fleet import commands
from edgekit.fleet.drive import DeviceDriver
from edgekit.trust.signed import Metadata, Offered
from tests.attacked import Bundle, bundle, snapshot
from tests.harness.box import config_bytes
from tests.harness.door import Place, device_with_door
from tests.metadata_maker import ROLES, Maker, key
from tests.trusted import shared_maker

pytestmark = pytest.mark.timeout(120)

MINE = bundle("the thief's own")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Three releases were good there, one after the other: the first is neither of the two kept."""
    with device_with_door(tmp_path_factory.mktemp("door"), tmp_path_factory.mktemp("a")) as place:
        for mode in ("good second", "good third"):
            newer = place.box.stage(mode)
            assert place.box.activate(newer)[0] == 0
        yield Place(place.box, place.login, place.address, place.updater, newer)


def whole(root: Root) -> dict[str, object]:
    """All of ROOT but the log, what is of this boot, and the record of refusals."""
    found: dict[str, object] = {
        name: said
        for name, said in snapshot(root.path).items()
        if not name.startswith(("run", "log", str(layout.RELEASES_DB)))
    }
    with closing(sqlite3.connect(root.path / layout.RELEASES_DB)) as db:
        lines = [line for line in db.iterdump() if not line.startswith('INSERT INTO "refusals"')]
    found["releases"] = lines
    return found


def offer(driver: DeviceDriver, what: Bundle, metadata: Metadata | None) -> None:
    told = msgspec.json.encode(Offered(what.manifest.decode(), metadata))
    driver.call("stage", what.digest, "--offer", stdin=told)


def another_project() -> Maker:
    maker = Maker(keys={role: [key(f"thief {role}")] for role in ROLES})
    maker.versions = dict.fromkeys(maker.versions, 1000)
    maker.sign(MINE.manifest, 99)
    return maker


def behind_our_root() -> Metadata:
    """The thief's files under the project's own root."""
    return msgspec.structs.replace(another_project().made(), roots=shared_maker().roots)


def signed_long_ago() -> Metadata:
    """Metadata of today by the right keys, with the counter of a release before the last good."""
    maker = shared_maker()
    maker.sign(MINE.manifest, 1)
    maker.bump()
    return maker.made()


def activate_an_older_one(driver: DeviceDriver) -> None:
    """A release that was good here and is neither current nor previous."""
    state = driver.call("state")
    kept = (state["current"], state["previous"])
    (older,) = [one["digest"] for one in state["releases"] if one["digest"] not in kept]
    driver.call("activate", older, "--config", "-", stdin=config_bytes())


THEFTS: dict[str, Callable[[DeviceDriver], object]] = {
    "unsigned": lambda driver: offer(driver, MINE, None),
    "without an offer": lambda d: d.call("stage", MINE.digest, "--offer", stdin=MINE.manifest),
    "another project": lambda driver: offer(driver, MINE, another_project().made()),
    "another project behind our root": lambda driver: offer(driver, MINE, behind_our_root()),
    "older": lambda driver: offer(driver, MINE, signed_long_ago()),
    "older one that is here": activate_an_older_one,
    "first contact": lambda driver: driver.bootstrap("0" * 12, b"a tar", lambda _: None),
}


@pytest.mark.parametrize("name", THEFTS)
def test_what_a_thief_brings_is_refused_and_nothing_changes(place: Place, name: str) -> None:
    with place.driver() as driver:
        before, agent = whole(place.box.root), place.box.agent
        with pytest.raises(VerificationError) as refused:
            THEFTS[name](driver)
    assert refused.value.exit_code == 4
    assert whole(place.box.root) == before
    assert place.box.agent == agent
    place.box.answers(place.good)


def test_blobs_that_nobody_offered_become_no_release(place: Place, tmp_path: Path) -> None:
    """A transfer alone changes nothing but the store, and what it left there is garbage."""
    root, source = place.box.root, tmp_path / "blob"
    with place.driver() as driver:
        for data in (MINE.manifest, *MINE.blobs):
            source.write_bytes(data)
            digest = Digest.of(data)
            part = commands.part_path(driver.facts, digest)
            driver._remote.append(source, part, 0, lambda _: None)
            driver.call("stage", digest, "--adopt", str(len(data)))
        before = whole(root)
        with pytest.raises(VerificationError):
            driver.call("stage", MINE.digest)
        assert whole(root) == before
        with pytest.raises(EdgekitError, match="is not staged here"):
            driver.call("activate", MINE.digest, "--config", "-", stdin=config_bytes())
        assert whole(root) == before
    place.box.answers(place.good)


def test_the_project_itself_gets_through_the_same_door(place: Place) -> None:
    """So it is the signature that the others lack."""
    ours = bundle("the project's next")
    maker = shared_maker()
    maker.sign(ours.manifest, 1000)
    maker.bump()
    with place.driver() as driver:
        told = msgspec.json.encode(Offered(ours.manifest.decode(), maker.made()))
        answer = driver.call("stage", ours.digest, "--offer", stdin=told)
        assert answer["missing"] != []
        refusals = driver.call("state")["refusals"]
    assert {one["digest"] for one in refusals} == {MINE.digest}
