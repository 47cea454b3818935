"""TLS to a real Mosquitto: who shows a wrong certificate, and what both ends say of it."""

from __future__ import annotations

import logging
import queue
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.client import Final, Requester
from edgekit.core.config import BrokerConfig, parse_agent_config
from edgekit.errors import UnreachableError, VerificationError
from edgekit.mqtt import engine, tls
from edgekit.mqtt.threaded import MqttClient
from tests.conftest import Project, make_project
from tests.pki import Authority, Certificate, TlsBroker
from tests.polled import Polled
from tests.tools import eventually

pytestmark = pytest.mark.timeout(300)

HOSTS = ("localhost", "127.0.0.1")
WAIT_SECONDS = 10.0
ATTEMPTS = 3


@dataclass
class Pki:
    """Everybody's certificates."""

    broker: TlsBroker
    alice: Certificate
    demo: Certificate
    clients: dict[str, Certificate]
    broker_revoked: Path


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pki]:
    folder = tmp_path_factory.mktemp("tls")
    ca, other = Authority(folder), Authority(folder, "other")
    shown = {
        "good": ca.issue("broker", hosts=HOSTS),
        "expired": ca.issue("broker", file="broker-expired", hosts=HOSTS, expired=True),
        "other-name": ca.issue("broker", file="broker-name", hosts=("elsewhere.example",)),
        "unknown-ca": other.issue("broker", file="broker-other", hosts=HOSTS),
        "revoked": ca.issue("broker", file="broker-revoked", hosts=HOSTS),
    }
    clients = {
        "expired": ca.issue("alice", file="alice-expired", expired=True),
        "revoked": ca.issue("alice", file="alice-revoked"),
        "unknown-ca": other.issue("alice", file="alice-other"),
        "demo-expired": ca.issue("demo", file="demo-expired", expired=True),
    }
    # what the broker shows is looked up in another list than what it is shown
    theirs = folder / "broker.crl"
    ca.revoke(shown["revoked"]).rename(theirs)
    broker = TlsBroker(folder, ca, shown, ca.revoke(clients["revoked"]))
    broker.start()
    try:
        yield Pki(broker, ca.issue("alice"), ca.issue("demo"), clients, theirs)
    finally:
        assert broker.process is not None
        broker.process.terminate()
        broker.process.wait(10)


@dataclass(frozen=True)
class Fault:
    """What is wrong, and what either end says of it."""

    port: str
    client: str  # of `Pki.clients`; empty: alice's good one; "-": none
    what: str
    why: str
    next_step: str
    exit_code: int
    broker_says: str


REFUSED = "certificate verify failed"  # Mosquitto 2.0 says no more than this of a client's
FAULTS = {
    "broker-expired": Fault(
        "expired", "", "certificate of the broker at {} has expired", "certificate has expired",
        "renew the broker's certificate", 4, "alert certificate expired",
    ),
    "broker-of-another-name": Fault(
        "other-name", "", "certificate of the broker at {} is for another name",
        "not valid for '127.0.0.1'", "host in [broker]", 4, "alert bad certificate",
    ),
    "broker-of-an-unknown-ca": Fault(
        "unknown-ca", "", "{} is not signed by a CA that is trusted here",
        "unable to get local issuer certificate", "ca_file in [broker]", 4, "alert unknown ca",
    ),
    "broker-revoked": Fault(
        "revoked", "", "certificate of the broker at {} has been revoked", "certificate revoked",
        "a new certificate", 4, "alert certificate revoked",
    ),
    "ours-expired": Fault(
        "good", "expired", "{} refuses our certificate: it has expired",
        "alice-expired.crt", "renew cert_file", 1, REFUSED,
    ),
    "ours-revoked": Fault(
        "good", "revoked", "{} refuses our certificate: it has been revoked",
        "alice-revoked.crt", "have another one issued", 1, REFUSED,
    ),
    "ours-of-an-unknown-ca": Fault(
        "good", "unknown-ca", "{} refuses our certificate: it knows no CA that signed it",
        "alice-other.crt", "issued by the broker's CA", 1, REFUSED,
    ),
    "ours-missing": Fault(
        "good", "-", "the broker at {} wants a certificate", "certificate required",
        "set cert_file and key_file", 1, "peer did not return a certificate",
    ),
}  # fmt: skip


@pytest.fixture(params=list(FAULTS))
def fault(request: pytest.FixtureRequest) -> Fault:
    return FAULTS[request.param]


def faulty(pki: Pki, fault: Fault) -> BrokerConfig:
    """The requester's or agent's side of a fault."""
    mine = None if fault.client == "-" else pki.clients.get(fault.client, pki.alice)
    lists = {"crl_file": str(pki.broker_revoked)} if fault.port == "revoked" else {}
    return pki.broker.config(fault.port, mine, **lists)


def write_project(folder: Path, broker: BrokerConfig) -> Project:
    """A project of the requester alice."""
    values = {k: v for k, v in msgspec.structs.asdict(broker).items() if v}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edgekit.toml").write_bytes(
        msgspec.toml.encode({"requester": "alice", "broker": values})
    )
    (folder / "fleet.toml").touch()
    return Project(folder, broker.port)


def test_a_wrong_certificate_is_a_clear_error_on_both_sides(
    pki: Pki, fault: Fault, tmp_path: Path
) -> None:
    broker = faulty(pki, fault)
    before = pki.broker.log_file.stat().st_size
    began = time.monotonic()
    project = write_project(tmp_path, broker)
    with ThreadPoolExecutor(2) as pool:
        verbs = [("devices",), ("ask", "demo", "Hello?")]
        both = list(pool.map(lambda verb: project.run(*verb), verbs))
    assert time.monotonic() - began < engine.CONNECT_TIMEOUT_SECONDS, "it was waited for"
    for done in both:
        assert done.returncode == fault.exit_code, done.stderr
        what, why, next_step = done.stderr.strip().splitlines()[-3:]
        assert fault.what.format(broker) in what
        assert why.startswith("  why:")
        assert fault.why in why
        assert next_step.startswith("  next:")
        assert fault.next_step in next_step
        assert "Traceback" not in done.stderr
    eventually(lambda: pki.broker.log_since(before).count(fault.broker_says) == len(both), 5)


def test_who_keeps_trying_says_the_reason_once(
    pki: Pki, fault: Fault, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's way: it comes back for as long as it runs, and its log is not filled."""
    monkeypatch.setattr(engine, "RECONNECT_BASE_SECONDS", 0.01)
    broker = faulty(pki, fault)
    states: list[bool] = []
    before = pki.broker.log_file.stat().st_size
    client = Polled(
        broker, "agent", subscriptions=[("x", 0)], on_message=print, on_connection=states.append
    )
    with caplog.at_level(logging.INFO, "edgekit"), closing(client):
        client.start()
        eventually(
            lambda: pki.broker.log_since(before).count(fault.broker_says) >= ATTEMPTS, WAIT_SECONDS
        )
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, said
    assert fault.what.format(broker) in said[0]
    assert fault.why in said[0]
    assert fault.next_step in said[0]
    assert not states, "a connection that never was cannot be lost"


def test_the_alert_is_read_where_the_broker_was_quicker_than_our_first_packet(pki: Pki) -> None:
    """With TLS 1.3 it comes after our handshake; a write that fails must not hide it."""
    broker = pki.broker.config("good", pki.clients["revoked"])
    before = pki.broker.log_file.stat().st_size
    plain = socket.create_connection(("127.0.0.1", broker.port), WAIT_SECONDS)
    with tls.make_context(broker).wrap_socket(plain, server_hostname="127.0.0.1") as sock:
        assert isinstance(sock, tls.Socket)
        assert sock.version() == "TLSv1.3"
        eventually(lambda: REFUSED in pki.broker.log_since(before))
        with pytest.raises(OSError, match=r"EOF|reset|pipe"):
            sock.send(b"x")
        assert sock.alert is not None
        assert "has been revoked" in tls.explain(sock.alert, broker).what


def test_a_renewed_certificate_counts_without_a_restart(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RECONNECT_BASE_SECONDS", 0.05)
    files = Certificate(tmp_path / "my.crt", tmp_path / "my.key")
    files.replace(pki.clients["expired"])
    before = pki.broker.log_file.stat().st_size
    states: queue.SimpleQueue[bool] = queue.SimpleQueue()
    client = Polled(
        pki.broker.config("good", files),
        "renewing",
        subscriptions=[("x", 0)],
        on_message=print,
        on_connection=states.put,
    )
    with closing(client):
        client.start()
        eventually(lambda: REFUSED in pki.broker.log_since(before))
        files.replace(pki.alice)
        assert states.get(timeout=WAIT_SECONDS)
    assert "u'alice'" in pki.broker.log_since(before)


def test_a_ca_that_was_taken_away_counts_no_longer_without_a_restart(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "RECONNECT_BASE_SECONDS", 0.05)
    ca_file = tmp_path / "trusted.crt"
    trusted = pki.broker.ca.cert.read_bytes()
    ca_file.write_bytes(trusted)
    states: queue.SimpleQueue[bool] = queue.SimpleQueue()
    client = Polled(
        pki.broker.config("good", pki.alice, ca_file=str(ca_file)),
        "distrusting",
        subscriptions=[("x", 0)],
        on_message=print,
        on_connection=states.put,
    )
    with closing(client):
        client.start()
        assert states.get(timeout=WAIT_SECONDS)
        ca_file.write_bytes(Authority(tmp_path, "third").cert.read_bytes())
        sock = client._client.socket()
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_RDWR)
        assert not states.get(timeout=WAIT_SECONDS)
        eventually(lambda: "the certificate of the broker" in caplog.text)
        time.sleep(0.5)  # some attempts
        assert states.empty()
        ca_file.write_bytes(trusted)
        assert states.get(timeout=WAIT_SECONDS)


def connected(broker: BrokerConfig) -> MqttClient:
    client = MqttClient(broker, "one", subscriptions=[("x", 0)], on_message=print)
    client.connect()
    return client


def test_nagle_and_a_dead_network_are_dealt_with_under_tls_too(pki: Pki) -> None:
    with closing(connected(pki.broker.config("good", pki.alice))) as client:
        sock = client._client.socket()
        assert isinstance(sock, socket.socket)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


def test_without_a_ca_file_the_system_s_cas_count(pki: Pki, tmp_path: Path) -> None:
    project = write_project(tmp_path, pki.broker.config("good", pki.alice, ca_file=""))
    assert project.run("devices").returncode == 4
    project.environment["SSL_CERT_FILE"] = str(pki.broker.ca.cert)  # OpenSSL's own variable
    assert project.run("devices").returncode == 0


def test_an_expired_list_of_revoked_certificates_lets_nobody_pass(pki: Pki) -> None:
    foreign = pki.broker.folder / "foreign.crl"
    Authority(pki.broker.folder, "third").revoke().rename(foreign)
    with pytest.raises(VerificationError) as caught:
        connected(pki.broker.config("good", pki.alice, crl_file=str(foreign)))
    assert "crl_file" in caught.value.what


def test_tls_on_a_port_without_it_and_the_other_way_round_are_told_apart(pki: Pki) -> None:
    with pytest.raises(UnreachableError) as caught:
        connected(pki.broker.config("plain", None))
    assert "is this its TLS port" in caught.value.next_step
    client = MqttClient(
        BrokerConfig("127.0.0.1", pki.broker.ports["good"]),
        "plain",
        subscriptions=[("x", 0)],
        on_message=print,
    )
    with pytest.raises(UnreachableError) as caught:
        client.connect(0.5)
    assert "tls = true" in caught.value.next_step


FLEET = """
[broker]
username = "{{device}}"
cert_file = "{folder}/{{device}}.crt"
key_file = "{folder}/{{device}}.key"
"""


@pytest.fixture(scope="module")
def device(pki: Pki, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A device that a push told of its own certificate, and alice's project."""
    broker = pki.broker.config("good", pki.alice)
    project = make_project(tmp_path_factory.mktemp("project"), broker.port, smollm2)
    write_project(project.folder, broker)
    with (project.folder / "fleet.toml").open("a") as file:
        file.write(FLEET.format(folder=pki.broker.folder))
    project.copy_root(smollm2)
    project.edgekit("push", "demo")
    yield project
    project.edgekit("stop", "demo")


def test_a_device_answers_over_mutual_tls(pki: Pki, device: Project) -> None:
    before = pki.broker.log_file.stat().st_size
    answer = device.edgekit("ask", "demo", "What is the capital of France?")
    assert "Paris" in answer
    assert re.search(r"demo  (ready|busy)", device.edgekit("devices"))  # its card says it later
    told = parse_agent_config(Root(device.root()).agent_config.read_bytes()).broker
    assert told.cert_file == str(pki.demo.cert)
    assert "u'alice'" in pki.broker.log_since(before)
    assert "u'demo'" in pki.broker.log_file.read_text()


def test_an_agent_whose_certificate_expired_says_so_and_answers_once_it_is_renewed(
    pki: Pki, device: Project
) -> None:
    device.edgekit("stop", "demo")
    root = Root(device.root())
    good = Certificate(pki.broker.folder / "kept.crt", pki.broker.folder / "kept.key")
    good.replace(pki.demo)
    pki.demo.replace(pki.clients["demo-expired"])
    log = root.log_file.with_name("expired.log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-S", "-P", "-m", "edgekit.agent"),
                *("serve", "--root", str(root.path)),
            ],
            env=root.environment(root.current.resolve()),
            stdout=file,
            stderr=file,
        )
    try:
        reason = "refuses our certificate: it has expired"
        eventually(lambda: reason in log.read_text(), 60)
        assert not root.ready_file.exists()
        pki.demo.replace(good)
        eventually(root.ready_file.exists, 30)
        with Requester(pki.broker.config("good", pki.alice), "alice") as requester:
            final = list(requester.ask("demo", {"messages": [{"role": "user", "content": "Hi"}]}))
        assert isinstance(final[-1], Final)
        assert log.read_text().count(reason) == 1
    finally:
        process.terminate()
        process.wait(30)


def test_an_agent_without_its_certificate_s_file_names_it_and_ends(device: Project) -> None:
    root = Root(device.root())
    config = parse_agent_config(root.agent_config.read_bytes())
    missing = msgspec.structs.replace(config.broker, cert_file="/nowhere/demo.crt")
    subprocess.run(["cp", "-al", str(root.path), str(device.folder / "other")], check=True)
    other = Root(device.folder / "other")
    other.agent_config.unlink()  # a hard link
    other.agent_config.write_bytes(
        msgspec.toml.encode(msgspec.structs.replace(config, broker=missing))
    )
    done = subprocess.run(
        [*(sys.executable, "-S", "-P", "-m", "edgekit.agent"), "serve", "--root", str(other.path)],
        env=root.environment(root.current.resolve()),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "cert_file of [broker] cannot be read" in done.stderr
    assert "/nowhere/demo.crt" in done.stderr
    assert "Traceback" not in done.stderr
