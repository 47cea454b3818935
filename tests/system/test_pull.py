"""Pull mode on real parts: docker-registry, a Mosquitto with the generated rights, real agents."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgekit.bundle.layout import Layout
from edgekit.bundle.publish import _put_manifest
from edgekit.core.digest import Digest
from edgekit.core.manifest import WEIGHT_TYPE, Descriptor
from edgekit.core.protocol import topics
from edgekit.core.protocol.payloads import UpdatePayload
from tests import tools
from tests.harness.pull_site import (
    HERE,
    LATE,
    OPERATOR,
    WAIT_SECONDS,
    PullSite,
    pull_site,
    write_files,
)
from tests.harness.site import NOT_AUTHORIZED, Client

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def made(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PullSite]:
    with pull_site(tmp_path_factory.mktemp("pull"), smollm2) as made:
        yield made


def weights(made: PullSite, bundle: str) -> Descriptor:
    layers = Layout(made.project.store).resolve(bundle).manifest.layers
    return max((d for d in layers if d.media_type == WEIGHT_TYPE), key=lambda d: d.size)


def eventually(check: object, what: str) -> None:
    tools.eventually(check, WAIT_SECONDS, what)  # type: ignore[arg-type]  # a function


def test_a_device_that_was_off_joins_later_with_no_controller_there(made: PullSite) -> None:
    made.off(LATE)
    made.pack("next:2")
    done = made.project.run("push", HERE, LATE, "--bundle", "next:2", "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert [one["device"] for one in told["pushed"]] == [HERE]
    assert list(told["failed"]) == [LATE]
    assert "off, or not connected" in told["failed"][LATE]["what"]
    assert f"{LATE} is off; it is told to run" in done.stderr
    assert made.runs(HERE, "next:2")
    assert made.current(LATE) == made.digest("smollm2:1")
    made.on(LATE)
    eventually(lambda: made.runs(LATE, "next:2"), "it runs the release")
    eventually(lambda: made.says(LATE, "good"), "it says so")
    again = json.loads(made.project.edgekit("resume", "--json"))
    assert again["phase"] == "done"
    assert not again["failed"]
    assert "Paris" in made.project.edgekit("ask", LATE, "What is the capital of France?")


def test_a_registry_that_dies_in_a_blob_is_gone_on_with(made: PullSite) -> None:
    made.pack("third:3")
    store, blob = made.root(HERE).store, weights(made, "third:3")
    store.remove(blob.digest)
    part = store.part_path(blob.digest)
    died: list[int] = []

    def killer() -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline and not died:
            if part.exists() and part.stat().st_size > 8 << 20:
                made.registry.kill()
                died.append(part.stat().st_size)
            time.sleep(0.01)
        time.sleep(3.0)
        made.registry.start()

    thread = threading.Thread(target=killer)
    thread.start()
    said = made.project.edgekit("push", HERE, "--bundle", "third:3")
    thread.join()
    assert "third" in said or made.digest("third:3").short in said
    assert died
    assert 8 << 20 < died[0] < blob.size, "it died in the middle"
    assert made.runs(HERE, "third:3")
    store.verify(blob.digest)


def test_a_blob_that_lies_is_refused_by_name_and_what_runs_goes_on(made: PullSite) -> None:
    made.pack("fourth:4")
    made.project.edgekit("publish", "fourth:4")
    store, blob = made.root(HERE).store, weights(made, "fourth:4")
    store.remove(blob.digest)
    there = made.registry.blob(blob.digest)
    right, before = there.read_bytes(), made.current(HERE)
    there.write_bytes(right[:1000] + b"LIE!" + right[1004:])
    try:
        done = made.project.run("push", HERE, "--bundle", "fourth:4", "--json")
        assert done.returncode == 4, done.stdout + done.stderr
        what = f"blob {blob.digest.short} of {made.registry.url} is not the signed one"
        assert what in done.stdout + done.stderr
        assert made.says(HERE, "refused", blob.digest.short)
        assert made.current(HERE) == before
        assert not store.has(blob.digest)
        assert not store.part_path(blob.digest).exists()
    finally:
        there.write_bytes(right)
    made.project.edgekit("resume", "--retry-failed")
    assert made.runs(HERE, "fourth:4")


def test_who_is_no_operator_can_say_nothing_and_an_operator_nothing_else(made: PullSite) -> None:
    release = made.digest("smollm2:1")
    for device in (HERE, LATE):  # what each runs already
        current = made.current(device)
        assert current
        assert made.forged(OPERATOR, device, current, 1) < 0x80
        eventually(lambda device=device: made.says(device, "good", "", 1), "it has said so")
    for name in ("mallory", "alice", LATE, HERE):
        assert made.forged(name, HERE, release, 1) == NOT_AUTHORIZED
    client = Client(made.site, OPERATOR)
    try:
        others = [
            topics.request_topic(HERE, OPERATOR),
            topics.control_topic(HERE, OPERATOR),
            topics.card_topic(HERE),
            topics.update_topic(HERE),
            f"{topics.response_prefix('alice')}x",
        ]
        assert [client.publish(topic) for topic in others] == [NOT_AUTHORIZED] * len(others)
        assert client.publish(topics.group_desired_topic("nobody"), b"", retain=True) < 0x80
        client.subscribe(topics.update_topic("+"))
        assert set(client.topics()) == {topics.update_topic(HERE), topics.update_topic(LATE)}
    finally:
        client.paho.disconnect()
        client.paho.loop_stop()
    other = Client(made.site, LATE)
    try:
        other.subscribe(topics.desired_topic(HERE), topics.desired_topic(LATE))
        assert other.topics() == [topics.desired_topic(LATE)], "its own and no other's"
    finally:
        other.paho.disconnect()
        other.paho.loop_stop()


def test_a_broker_that_lies_makes_a_device_look_and_nothing_else(made: PullSite) -> None:
    """The operator's account stands for the broker: it can publish what it likes."""
    made.pack("newer:9")
    made.project.edgekit("push", HERE, "--bundle", "newer:9")
    before, order = made.current(HERE), int(time.time() * 1000) + 1_000_000
    older = made.digest("smollm2:1")
    made.project.edgekit("publish", "smollm2:1")  # the device has collected it
    assert made.forged(OPERATOR, HERE, older, order) < 0x80
    eventually(lambda: made.says(HERE, "refused", "", order), "the older release is refused")
    assert "older" in made.update(HERE)["reason"] or "counter" in made.update(HERE)["reason"]
    assert made.forged(OPERATOR, HERE, Digest.of(b"not there"), order + 1) < 0x80
    eventually(lambda: made.says(HERE, "waiting", "does not have", order + 1), "it is not there")
    # a manifest that is there and that nobody has signed
    unsigned = Layout(made.project.store).resolve("newer:9").data + b"\n"
    _put_manifest(made.registry.client(), "forged", unsigned)
    assert made.forged(OPERATOR, HERE, Digest.of(unsigned), order + 2) < 0x80
    eventually(lambda: made.says(HERE, "refused", "", order + 2), "the unsigned one is refused")
    assert made.current(HERE) == before
    assert "Paris" in made.project.edgekit("ask", HERE, "What is the capital of France?")
    told = msgspec.json.decode(made.root(HERE).update_file.read_bytes(), type=UpdatePayload)
    assert told.current == before


def test_a_group_s_desired_state_is_for_those_without_their_own(made: PullSite) -> None:
    made.pack("fifth:5")
    made.project.edgekit("desired", "kiosks", "fifth:5")
    own = made.current(LATE)
    assert own
    assert made.forged(OPERATOR, LATE, own, 1) < 0x80
    client = Client(made.site, OPERATOR)
    assert client.publish(topics.desired_topic(HERE), b"", retain=True) < 0x80
    client.paho.disconnect()
    client.paho.loop_stop()
    eventually(lambda: made.runs(HERE, "fifth:5"), "the group's release runs")
    assert made.current(LATE) == own
    made.project.edgekit("desired", "kiosks", "--clear")


def test_one_rollout_pushes_and_is_pulled_and_goes_back_where_that_is_signed(
    made: PullSite,
) -> None:
    write_files(made, (HERE,))  # the other is pushed to
    before = {name: made.current(name) for name in (HERE, LATE)}
    made.pack("sixth:6")
    told = json.loads(made.project.edgekit("push", HERE, LATE, "--bundle", "sixth:6", "--json"))
    assert {one["device"] for one in told["pushed"]} == {HERE, LATE}
    assert made.runs(HERE, "sixth:6")
    assert made.runs(LATE, "sixth:6")
    done = made.project.run("rollback", "--rollout", "newest", "--yes")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "has no rollback entry" in done.stderr
    assert made.runs(HERE, "sixth:6")
    for release in {str(release) for release in before.values()}:
        made.project.edgekit("sign", release, "--rollback")
    made.project.edgekit("rollback", "--rollout", "newest", "--yes")
    assert {name: made.current(name) for name in (HERE, LATE)} == before
