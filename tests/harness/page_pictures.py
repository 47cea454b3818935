"""`python -m tests.harness.page_pictures`: the pictures of docs/pictures, of simulated devices.

The gateway's slots are shorter here than they are, so that a line is full after half a minute.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgekit.fleet.rollout.book import RolloutBook
from tests import tools
from tests.fakes import rollout_stories
from tests.fakes.announced_fleet import AnnouncedFleet
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.browser import DESKTOP, PHONE, Browser, browser
from tests.harness.gateway import Gateway, gateway

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
SLOT_SECONDS = 0.25
QUICK = (
    "import edgekit.gateway.page.fleet as fleet; "
    f"fleet.SLOT_SECONDS = {SLOT_SECONDS}; from edgekit.__main__ import main; main()"
)
TICKS = 130  # a little more than a line has slots
QUESTION = "The press in hall 2 stops after a minute. What should I look at first?"
ANSWER = (
    "Three checks before you call it broken:\n\n"
    "1. Is the pressure below 2.4 bar? Then the inlet filter is full.\n"
    "2. Does the red lamp blink twice? The door switch is open.\n"
    "3. Neither? Restart the press, and note the time.\n\n"
    "<b>This is text</b>, as is everything that a model writes."
)


def main() -> None:
    """Make all of them."""
    with tempfile.TemporaryDirectory(prefix="edgekit-pictures-") as place, ExitStack() as running:
        folder = Path(place)
        (folder / "mosquitto").mkdir()
        broker = running.enter_context(tools.mosquitto(folder / "mosquitto"))
        seen = running.enter_context(browser(folder / "browser"))
        story = rollout_stories.paused()
        _, journal = RolloutBook(folder / "g" / ".edgekit" / "rollouts").create(
            story.plan, time.time() - 5000
        )
        story.journal[:] = [
            (event, time.time() - 4000 + 200 * n / len(story.journal))
            for n, (event, _) in enumerate(story.journal)
        ]
        rollout_stories.write(journal, story)
        made = running.enter_context(gateway(folder / "g", broker.port, program=("-c", QUICK)))
        for count in (1, 10, 200):
            fleet = AnnouncedFleet(broker.port, count)
            with _at_work(fleet):
                time.sleep(TICKS * SLOT_SECONDS)
                _fleet_pictures(seen, made, count)
            fleet.close()
        _chat_picture(seen, made, broker.port)
    for path in sorted(FOLDER.glob("page-*.png")):
        print(f"{path.name} {path.stat().st_size / 1000:.0f} kB")


@contextmanager
def _at_work(fleet: AnnouncedFleet) -> Iterator[None]:
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(SLOT_SECONDS):
            fleet.tick()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        ended.set()
        worker.join()


def _fleet_pictures(seen: Browser, made: Gateway, count: int) -> None:
    ways = {
        1: [("desktop-light", DESKTOP, "light")],
        10: [("phone-dark", PHONE, "dark"), ("desktop-light", DESKTOP, "light")],
        200: [("phone-light", PHONE, "light"), ("desktop-dark", DESKTOP, "dark")],
    }
    for name, size, scheme in ways[count]:
        _open(seen, made, size, scheme)
        seen.wait(f"document.querySelectorAll('tr.device').length === {count}")
        if count == 10 and size == DESKTOP:
            time.sleep(0.5)
            seen.click("tr.device:nth-child(3) button")
        time.sleep(0.5)
        seen.picture(FOLDER / f"page-{count}-{name}.png")


def _chat_picture(seen: Browser, made: Gateway, port: int) -> None:
    device = SimulatedDevice(port, "oslo-press-003", model="phi-3.5-mini", pools=("press",))
    device.answer = ANSWER
    try:
        _open(seen, made, PHONE, "light")
        seen.click("#to-chat")
        seen.wait("document.getElementById('target').value !== ''")
        seen.type("#prompt", QUESTION)
        seen.press("Enter")
        seen.wait(
            "document.querySelector('.turn:last-child .note')?.textContent.includes('tokens')"
        )
        time.sleep(0.3)
        seen.picture(FOLDER / "page-chat-phone-light.png")
    finally:
        device.close()


def _open(seen: Browser, made: Gateway, size: tuple[int, int], scheme: str) -> None:
    seen.open(f"{made.url}/#key={made.keys['alice']}", size, scheme)
    seen.wait("document.getElementById('live').dataset.live === 'on'")


if __name__ == "__main__":
    main()
