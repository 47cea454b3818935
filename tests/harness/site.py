"""A broker with accounts and rights, as `edgekit broker acl` writes it, and its clients."""

from __future__ import annotations

import os
import queue
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics
from tests import tools
from tests.conftest import Project
from tests.pki import Authority, Certificate

WAIT_SECONDS = 10.0
NOT_AUTHORIZED = 0x87  # §3.4.2.1
DEVICES = {"demo": [], "pi-1": ["kitchen"], "pi-2": []}
REQUESTERS = ("alice", "mallory")
MODES = {"acl": [], "dynamic-security": ["--dynamic-security"]}


@dataclass
class Site:
    """A project, a CA, and a Mosquitto that runs on the files it wrote."""

    project: Project
    ca: Authority
    written: Path
    mode: str
    ports: dict[str, int]
    process: subprocess.Popen[bytes]
    certificates: dict[str, Certificate] = field(default_factory=dict)

    def password(self, name: str) -> Path:
        return self.written / "passwords" / name

    def certificate(self, name: str) -> Certificate:
        return self.certificates.setdefault(name, self.ca.issue(name))

    def config(self, name: str) -> BrokerConfig:
        """With a password."""
        return BrokerConfig(
            "127.0.0.1",
            self.ports["passwords"],
            name,
            str(self.password(name)),
            tls=True,
            ca_file=str(self.ca.cert),
        )

    def config_with_certificate(self, name: str) -> BrokerConfig:
        files = self.certificate(name).files
        ca = str(self.ca.cert)
        return BrokerConfig("127.0.0.1", self.ports["certificates"], tls=True, ca_file=ca, **files)  # type: ignore[arg-type]  # all are strings


@contextmanager
def serving(
    project: Project,
    folder: Path,
    mode: str,
    *options: str,
    requesters: Sequence[str] = REQUESTERS,
    adjust: Callable[[Path], None] = lambda _: None,
) -> Iterator[Site]:
    """A Mosquitto on the files that are written for the project, and that `adjust` changes."""
    ca = Authority(folder)
    shown = ca.issue("broker", hosts=("localhost", "127.0.0.1"))
    ports = {"certificates": tools.free_port(), "passwords": tools.free_port()}
    data = folder / "data"
    data.mkdir()
    project.edgekit(
        *("broker", "acl", str(folder / "written"), *MODES[mode], *options),
        *(word for name in requesters for word in ("--requester", name)),
        *("--cert-file", str(shown.cert), "--key-file", str(shown.key), "--ca-file", str(ca.cert)),
        *("--host", "127.0.0.1", "--data", str(data)),
        *("--port", str(ports["certificates"]), "--password-port", str(ports["passwords"])),
    )
    config = folder / "written" / "mosquitto" / "mosquitto.conf"
    adjust(config.parent)
    with config.open("a") as file:
        file.write(f"log_dest file {folder / 'mosquitto.log'}\n")
        if os.geteuid() == 0:
            file.write("user root\n")
    process = subprocess.Popen([tools.find("mosquitto"), "-c", str(config)])
    try:
        tools.wait_for_port(ports["passwords"], process)
        yield Site(project, ca, folder / "written", mode, ports, process)
    finally:
        process.terminate()
        process.wait(10)


class Client:
    """A stranger's client: raw paho with an account of its choice, which may do what it likes."""

    def __init__(self, site: Site, name: str | None, **options: Any) -> None:
        self.messages: queue.SimpleQueue[paho.MQTTMessage] = queue.SimpleQueue()
        self.connack: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._codes: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._subacks: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self.lost = threading.Event()
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            options.pop("client_id", ""),
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        context = ssl.create_default_context(cafile=site.ca.cert)
        certificate: Certificate | None = options.pop("certificate", None)
        if certificate:
            context.load_cert_chain(certificate.cert, certificate.key)
        client.tls_set_context(context)
        if name is not None:
            password = options.pop("password", None) or site.password(name).read_text().strip()
            client.username_pw_set(name, password)
        if will := options.pop("will", None):
            client.will_set(will, b"{}", 1, True)
        client.on_connect = lambda *a: self.connack.put(a[3].value)
        client.on_disconnect = lambda *_: self.lost.set()
        client.on_message = lambda _client, _data, message: self.messages.put(message)
        client.on_publish = lambda *a: self._codes.put((a[2], a[3].value))
        client.on_subscribe = lambda *a: self._subacks.put([code.value for code in a[3]])
        self.paho = client
        port = site.ports["certificates" if certificate else options.pop("port", "passwords")]
        assert not options
        client.connect("127.0.0.1", port, clean_start=False)  # takes a session that is there
        client.loop_start()
        self.code = self.connack.get(timeout=WAIT_SECONDS)

    def publish(self, topic: str, payload: bytes = b"{}", **more: Any) -> int:
        """The PUBACK's reason code."""
        info = self.paho.publish(topic, payload, 1, **more)
        mid, code = self._codes.get(timeout=WAIT_SECONDS)
        assert mid == info.mid
        return code

    def subscribe(self, *filters: str) -> list[int]:
        self.paho.subscribe([(one, 1) for one in filters])
        return self._subacks.get(timeout=WAIT_SECONDS)

    def topics(self) -> list[str]:
        """What has come, once all that the broker had for us is here."""
        self.paho.subscribe("nothing/at/all", 1)  # its SUBACK comes behind
        self._subacks.get(timeout=WAIT_SECONDS)
        found = []
        with suppress(queue.Empty):
            while True:
                found.append(self.messages.get_nowait().topic)
        return found


def heard_by(device: str, connect: Any) -> Client:
    """A device that is listening as its agent does."""
    client: Client = connect(device)
    filters = [topics.request_topic(device, "+"), topics.control_topic(device, "+")]
    for pool in DEVICES[device]:
        filters += [topics.pool_filter(pool), topics.pool_control_topic(pool, "+")]
    assert all(code < 0x80 for code in client.subscribe(*filters))
    return client


def told_to_all(topics: list[str]) -> bool:
    """Whether these are retained cards and states and nothing else."""
    return all(topic.endswith(("/card", "/status")) for topic in topics)
