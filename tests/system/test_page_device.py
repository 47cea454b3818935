"""The page with a real device: SmolLM2 answers in a browser, and a killed agent shows."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tools
from tests.conftest import Project, make_project
from tests.harness.browser import PHONE, browser
from tests.harness.gateway import gateway

pytestmark = pytest.mark.timeout(400)

LOST_SECONDS = 15.0
STATE = "document.querySelector('tr.device')?.dataset.state"


@pytest.fixture
def own_device(smollm2: Path, tmp_path: Path) -> Iterator[Project]:
    """A device that this test may kill."""
    (tmp_path / "mosquitto").mkdir()
    with tools.mosquitto(tmp_path / "mosquitto") as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        project.edgekit("push", "demo")
        yield project
        project.edgekit("stop", "demo")


def test_a_real_device_chats_in_a_browser_and_is_lost_when_it_is_killed(
    own_device: Project, tmp_path: Path
) -> None:
    with (
        gateway(own_device.folder, own_device.port) as served,
        browser(tmp_path / "browser") as page,
    ):
        page.open(f"{served.url}/#key={served.keys['alice']}", PHONE)
        page.wait(f"['ready', 'busy'].includes({STATE})")
        assert page.text("#rollout-list .phase") == "done"  # of the push
        page.click("tr.device button")
        assert "smollm2" in page.text("#device-facts")
        page.click("#device-chat")
        page.wait("document.getElementById('target').value === 'device:demo'")
        page.type("#prompt", "What is the capital of France?")
        page.press("Enter")
        page.wait("document.getElementById('turns').textContent.includes('tokens/s')", 60)
        assert "Paris" in page.text("#turns")
        page.click("#to-fleet")
        tools.eventually(lambda: page.text("tr.device .speed") != "", 10)
        run = own_device.root() / "run"
        agent = int((run / "supervisor.pid").read_text())
        os.kill(agent, signal.SIGKILL)  # the agent dies with its supervisor
        began = time.monotonic()
        page.wait(f"{STATE} === 'lost'", LOST_SECONDS)
        print(f"lost_after_s={time.monotonic() - began:.2f}")
        assert page.text("#announce") == "demo is lost."
        assert page.violations() == []
        assert page.complaints() == []
