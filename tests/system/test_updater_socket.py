"""The updater's socket under a real systemd, which closes one that is knocked at too often."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgekit import data
from tests.harness.systemd_device import SystemdDevice, systemd_device

pytestmark = pytest.mark.timeout(300)

UNITS = "/etc/systemd/system"
SOCKET = data.path("deploy/systemd/edgekit-updater.socket").read_text("utf-8")
# In place of the door, which needs a release.
SERVICE = "[Service]\nExecStart=/bin/true\nStandardInput=socket\n"
LIMIT = "TriggerLimitIntervalSec=0\n"
KNOCKS = """
import socket
for _ in range(600):
    with socket.socket(socket.AF_UNIX) as there:
        try:
            there.connect("/run/edgekit/updater.sock")
        except OSError:
            pass
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdDevice]:
    with systemd_device(tmp_path_factory.mktemp("device")) as device:
        device.write(f"{UNITS}/edgekit-updater@.service", SERVICE.encode())
        device.write("/tmp/knocks.py", KNOCKS.encode())
        yield device


@pytest.mark.parametrize(("text", "stays"), [(SOCKET, True), (SOCKET.replace(LIMIT, ""), False)])
def test_a_socket_that_is_knocked_at_without_end_stays_open(
    device: SystemdDevice, text: str, stays: bool
) -> None:
    """A thief with the push key could else lock everybody out: 200 knocks in two seconds."""
    assert (LIMIT in text) is stays
    text = text.replace("SocketGroup=edgekit-push", "SocketGroup=root")
    device.write(f"{UNITS}/edgekit-updater.socket", text.encode())
    device.exec("systemctl", "daemon-reload")
    device.exec("systemctl", "reset-failed")
    device.exec("systemctl", "restart", "edgekit-updater.socket")
    device.exec("python3", "/tmp/knocks.py")
    found = device.exec("systemctl", "show", "--property=ActiveState", "edgekit-updater.socket")
    assert ("ActiveState=active" in found) is stays, found
