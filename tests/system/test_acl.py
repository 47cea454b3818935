"""`edgekit broker acl`: what it writes is given to a real Mosquitto, which is then attacked.

Mosquitto says Granted to a subscription that its ACL file forbids and filters what it delivers, so
that reading is tested by what arrives.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.client import Final, Requester
from edgekit.core.protocol import topics
from edgekit.errors import EdgekitError
from tests.conftest import Project, make_project
from tests.harness.site import (
    DEVICES,
    MODES,
    NOT_AUTHORIZED,
    WAIT_SECONDS,
    Client,
    Site,
    heard_by,
    serving,
    told_to_all,
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def project(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Three devices, of which `demo` is real."""
    project = make_project(tmp_path_factory.mktemp("project"), 1, smollm2)
    with (project.folder / "fleet.toml").open("a") as file:
        for name in ("pi-1", "pi-2"):
            file.write(f'[devices.{name}]\naddress = "ssh:{name}"\npools = {DEVICES[name]}\n')
    return project


@pytest.fixture(scope="module", params=list(MODES))
def site(
    request: pytest.FixtureRequest, project: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with serving(project, tmp_path_factory.mktemp("site"), request.param) as site:
        yield site


@pytest.fixture
def connect(site: Site) -> Iterator[Any]:
    """Makes clients, which are gone after the test."""
    with ExitStack() as stack:

        def make(name: str | None, **options: Any) -> Client:
            client = Client(site, name, **options)

            def close() -> None:
                client.paho.disconnect()
                client.paho.loop_stop()

            stack.callback(close)
            return client

        yield make


# --- what must go on --------------------------------------------------------------------------
@contextmanager
def running(site: Site) -> Iterator[None]:
    """The real device `demo`, told of its own password by a push."""
    broker = site.config("alice")
    values = {k: v for k, v in msgspec.structs.asdict(broker).items() if v}
    folder = site.project.folder
    (folder / "edgekit.toml").write_bytes(
        msgspec.toml.encode({"requester": "alice", "broker": values})
    )
    fleet = folder / "fleet.toml"
    before = fleet.read_text()
    passwords = site.written / "passwords" / "{device}"
    site.project.port = broker.port
    fleet.write_text(f'{before}[broker]\nusername = "{{device}}"\npassword_file = "{passwords}"\n')
    try:
        site.project.edgekit("push", "demo")
        yield
        site.project.edgekit("stop", "demo")
    finally:
        fleet.write_text(before)


def test_a_requester_is_answered_by_a_device_each_with_its_own_account(site: Site) -> None:
    with running(site):
        assert "demo  ready" in site.project.edgekit("devices")
        answer = site.project.edgekit("ask", "demo", "What is the capital of France?")
        assert "Paris" in answer
        with Requester(site.config_with_certificate("alice"), "alice") as requester:
            body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
            assert isinstance(list(requester.ask("demo", body))[-1], Final)
        with (
            pytest.raises(EdgekitError, match="refused"),
            Requester(site.config("mallory"), "alice") as forger,
        ):
            list(forger.ask("demo", body))


def test_a_device_hears_its_own_prompts_and_its_pool_s_and_can_answer(
    site: Site, connect: Any
) -> None:
    device, alice = heard_by("pi-1", connect), connect("alice")
    asked = [
        topics.request_topic("pi-1", "alice"),
        topics.control_topic("pi-1", "alice"),
        topics.pool_request_topic("kitchen", "alice"),
        topics.pool_control_topic("kitchen", "alice"),
    ]
    for topic in asked:
        assert alice.publish(topic) == 0
    assert device.topics() == asked
    alice.subscribe(f"{topics.response_prefix('alice')}#", topics.card_topic("+"))
    alice.topics()  # retained: the real device's card
    told = [f"{topics.response_prefix('alice')}1", topics.card_topic("pi-1")]
    for topic in told:
        assert device.publish(topic) == 0
    assert alice.topics() == told


# --- who gets in ------------------------------------------------------------------------------
def test_nobody_gets_in_without_an_account(connect: Any) -> None:
    assert connect(None).code == NOT_AUTHORIZED


def test_a_wrong_password_is_refused(site: Site, connect: Any) -> None:
    assert connect("alice", password="guessed").code == NOT_AUTHORIZED
    assert connect("alice", password=site.password("mallory").read_text().strip()).code >= 0x80
    assert connect("nobody", password="x").code == NOT_AUTHORIZED
    wrong = msgspec.structs.replace(
        site.config("alice"), password_file=str(site.password("mallory"))
    )
    with pytest.raises(EdgekitError, match="refused") as caught:
        Requester(wrong, "alice")
    assert "Not authorized" in caught.value.why
    assert "password_file" in caught.value.next_step


def test_no_password_opens_the_port_of_certificates(site: Site) -> None:
    broker = msgspec.structs.replace(site.config("alice"), port=site.ports["certificates"])
    with pytest.raises(EdgekitError, match="wants a certificate"):
        Requester(broker, "alice")


def test_a_certificate_s_name_counts_and_not_the_one_that_is_claimed(
    site: Site, connect: Any
) -> None:
    device = heard_by("pi-1", connect)
    mallory = connect("alice", certificate=site.certificate("mallory"))
    assert mallory.code == 0
    assert mallory.publish(topics.request_topic("pi-1", "alice")) == NOT_AUTHORIZED
    assert mallory.publish(topics.request_topic("pi-1", "mallory")) == 0
    assert device.topics() == [topics.request_topic("pi-1", "mallory")]


def test_a_certificate_nobody_is_listed_for_is_at_most_a_requester_of_its_own_name(
    site: Site, connect: Any
) -> None:
    device = heard_by("pi-1", connect)
    stranger = connect(None, certificate=site.certificate("stranger"))
    stranger.subscribe("#")
    code = stranger.publish(topics.request_topic("pi-1", "stranger"))
    assert code == (0 if site.mode == "acl" else NOT_AUTHORIZED)
    for topic in (topics.request_topic("pi-1", "alice"), topics.card_topic("stranger")):
        assert stranger.publish(topic) == NOT_AUTHORIZED
    assert device.topics() == ([topics.request_topic("pi-1", "stranger")] if code == 0 else [])


# --- requesters -------------------------------------------------------------------------------
def test_a_forged_requester_is_refused_and_the_device_never_sees_it(connect: Any) -> None:
    device, mallory = heard_by("pi-1", connect), connect("mallory")
    for topic in (
        topics.request_topic("pi-1", "alice"),
        topics.control_topic("pi-1", "alice"),
        topics.pool_request_topic("kitchen", "alice"),
        topics.pool_control_topic("kitchen", "alice"),
        topics.request_topic("pi-1", "mallory/alice"),
    ):
        assert mallory.publish(topic) == NOT_AUTHORIZED
    assert device.topics() == []


def test_a_wildcard_and_another_s_answers_bring_nothing(connect: Any) -> None:
    mallory, alice, device = connect("mallory"), connect("alice"), heard_by("pi-1", connect)
    for one in (
        *("#", "+/+/+/#", f"{topics.PREFIX}/res/#", f"{topics.PREFIX}/res/alice/#"),
        *(
            f"{topics.PREFIX}/req/#",
            topics.request_topic("pi-1", "+"),
            f"{topics.PREFIX}/ctl/#",
            "$SYS/#",
        ),
        f"{topics.PREFIX}/res/mallory/#",
    ):
        mallory.subscribe(one)
    assert told_to_all(mallory.topics())
    assert alice.publish(topics.request_topic("pi-1", "alice")) == 0
    assert device.topics() == [topics.request_topic("pi-1", "alice")]
    device.publish(f"{topics.response_prefix('alice')}secret")
    assert device.publish(f"{topics.response_prefix('mallory')}mine") == 0
    # once for each subscription that matches
    assert set(mallory.topics()) == {f"{topics.response_prefix('mallory')}mine"}


def test_a_requester_cannot_say_that_it_is_a_device(connect: Any) -> None:
    alice, mallory = connect("alice"), connect("mallory")
    alice.subscribe(topics.card_topic("+"), topics.status_topic("+"))
    alice.topics()  # the real device's
    for device in ("pi-1", "mallory"):
        for topic in (topics.card_topic(device), topics.status_topic(device)):
            assert mallory.publish(topic, retain=True) == NOT_AUTHORIZED
    assert mallory.publish(f"{topics.response_prefix('alice')}1") == NOT_AUTHORIZED
    assert alice.topics() == []


def test_a_requester_s_will_cannot_say_that_a_device_is_lost(site: Site, connect: Any) -> None:
    """Mosquitto looks at a Will when it is due."""
    alice = connect("alice")
    alice.subscribe(topics.status_topic("+"))
    alice.topics()
    for name, device in (("mallory", "pi-1"), ("pi-2", "pi-2")):
        dying = Client(site, name, will=topics.status_topic(device))
        sock = dying.paho.socket()
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_RDWR)  # gone without a DISCONNECT
        dying.paho.loop_stop()
    assert alice.messages.get(timeout=WAIT_SECONDS).topic == topics.status_topic("pi-2")
    assert alice.topics() == []


def test_a_pool_s_prompts_cannot_be_shared_by_who_is_no_member(site: Site, connect: Any) -> None:
    """An ACL file does not stop the subscription; see docs/security.md."""
    device, alice, mallory = heard_by("pi-1", connect), connect("alice"), connect("mallory")
    codes = mallory.subscribe(topics.pool_filter("kitchen"))
    for _ in range(4):
        alice.publish(topics.pool_request_topic("kitchen", "alice"))
    assert mallory.topics() == []
    if site.mode == "dynamic-security":
        assert codes == [NOT_AUTHORIZED]
        assert len(device.topics()) == 4


def test_a_packet_above_the_limit_costs_its_sender_the_connection_and_nobody_else(
    connect: Any,
) -> None:
    device, mallory, alice = heard_by("pi-1", connect), connect("mallory"), connect("alice")
    mallory.paho.publish(topics.request_topic("pi-1", "mallory"), bytes((1 << 20) + 1), 0)
    assert mallory.lost.wait(WAIT_SECONDS)
    assert alice.publish(topics.request_topic("pi-1", "alice")) == 0
    assert device.topics() == [topics.request_topic("pi-1", "alice")]


def test_who_takes_a_device_s_connection_away_learns_nothing_by_it(connect: Any) -> None:
    """Client identifiers are self-declared; see docs/security.md."""
    device = connect("pi-1", client_id="edgekit-pi-1")
    device.subscribe(topics.request_topic("pi-1", "+"))
    mallory, alice = connect("mallory", client_id="edgekit-pi-1"), connect("alice")
    assert device.lost.wait(WAIT_SECONDS)
    alice.publish(topics.request_topic("pi-1", "alice"))
    assert mallory.topics() == []


def test_nobody_may_change_the_broker_s_rules(connect: Any) -> None:
    order = {"commands": [{"command": "setDefaultACLAccess", "acls": []}]}
    for name in ("mallory", "pi-2"):
        code = connect(name).publish("$CONTROL/dynamic-security/v1", json.dumps(order).encode())
        assert code == NOT_AUTHORIZED


# --- devices ----------------------------------------------------------------------------------
def test_a_device_cannot_speak_for_another(connect: Any) -> None:
    device, alice = connect("pi-2"), connect("alice")
    alice.subscribe(topics.card_topic("+"), topics.status_topic("+"))
    alice.topics()
    for topic in (
        *(topics.card_topic("pi-1"), topics.status_topic("pi-1"), topics.card_topic("pi-1/x")),
        f"{topics.PREFIX}/dev/pi-1/metrics",
    ):
        assert device.publish(topic, retain=True) == NOT_AUTHORIZED
    assert device.publish(topics.card_topic("pi-2")) == 0
    assert alice.topics() == [topics.card_topic("pi-2")]


def test_a_device_cannot_read_another_s_prompts(connect: Any) -> None:
    nosy, device, alice = connect("pi-2"), heard_by("pi-1", connect), connect("alice")
    for one in (
        *("#", topics.request_topic("pi-1", "+"), topics.request_topic("+", "+")),
        *(topics.control_topic("pi-1", "+"), topics.pool_control_topic("kitchen", "+")),
        *(topics.pool_request_topic("kitchen", "+"), f"{topics.PREFIX}/res/#"),
    ):
        nosy.subscribe(one)
    assert told_to_all(nosy.topics())
    sent = [
        topics.request_topic("pi-1", "alice"),
        topics.control_topic("pi-1", "alice"),
        topics.pool_request_topic("kitchen", "alice"),
    ]
    for topic in sent:
        alice.publish(topic)
    assert device.topics() == sent
    device.publish(f"{topics.response_prefix('alice')}1")
    assert nosy.topics() == []


def test_a_device_cannot_prompt_as_itself_or_as_another(connect: Any) -> None:
    device, other = heard_by("pi-1", connect), connect("pi-2")
    for topic in (
        *(topics.request_topic("pi-1", "pi-2"), topics.request_topic("pi-1", "alice")),
        *(topics.control_topic("pi-1", "pi-2"), topics.pool_request_topic("kitchen", "pi-2")),
    ):
        assert other.publish(topic) == NOT_AUTHORIZED
    assert device.topics() == []


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("bound", [False, True])
def test_bound_client_ids_keep_another_account_from_a_device_s_connection(
    project: Project, tmp_path: Path, mode: str, bound: bool
) -> None:
    with serving(project, tmp_path, mode, *(["--bind-client-ids"] if bound else [])) as site:
        device = Client(site, "pi-1", client_id="edgekit-pi-1")
        others = [Client(site, "mallory", client_id="edgekit-pi-1")]
        if bound:
            others += [
                Client(site, "mallory", client_id="pi-1"),
                Client(site, None, certificate=site.certificate("alice"), client_id="pi-1"),
            ]
        assert [other.code for other in others] == [0] * len(others)
        assert device.lost.wait(1.0) != bound
        if bound:
            assert device.publish(topics.status_topic("pi-1")) < 0x80
            assert others[-1].publish(topics.status_topic("pi-1")) == NOT_AUTHORIZED
        for client in (device, *others):
            client.paho.disconnect()
            client.paho.loop_stop()
