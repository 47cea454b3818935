"""The page in a real browser: a real gateway, a real Mosquitto, and simulated devices."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edgekit.core.protocol import topics, wire
from edgekit.fleet.rollout.book import RolloutBook
from edgekit.fleet.rollout.events import AbortOrdered
from edgekit.gateway.page import files
from edgekit.gateway.page.events import MOST_OF_ONE
from tests import tools
from tests.fakes import rollout_stories
from tests.fakes.announced_fleet import AnnouncedFleet
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.browser import DESKTOP, PHONE, Browser, browser
from tests.harness.gateway import Gateway, gateway

pytestmark = pytest.mark.timeout(300)

LOST_SECONDS = 15.0
MARKUP = '<img src="x" onerror="window.hacked = 1"><script>window.hacked = 1</script>'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture(params=[1, 10, 200])
def fleet(
    request: pytest.FixtureRequest, file_broker: tools.MosquittoBroker
) -> Iterator[AnnouncedFleet]:
    made = AnnouncedFleet(file_broker.port, request.param)
    yield made
    made.close()


@pytest.fixture
def ten(file_broker: tools.MosquittoBroker) -> Iterator[AnnouncedFleet]:
    made = AnnouncedFleet(file_broker.port, 10)
    yield made
    made.close()


@contextmanager
def device(port: int, name: str, pool: str = "kitchen") -> Iterator[SimulatedDevice]:
    made = SimulatedDevice(port, name, pools=(pool,))
    try:
        yield made
    finally:
        made.close()


def signed_in(page: Browser, served: Gateway, view: str = "fleet", **how: object) -> None:
    page.open(f"{served.url}/#key={served.keys['alice']}", **how)  # type: ignore[arg-type]  # open's
    page.wait("document.getElementById('live').dataset.live === 'on'")
    if view == "chat":
        page.click("#to-chat")
        page.wait("!document.getElementById('chat-view').hidden")


def rows(page: Browser) -> list[str]:
    return list(
        page.evaluate("[...document.querySelectorAll('tr.device .name')].map(e => e.innerText)")
    )


def wait_rows(page: Browser, count: int) -> None:
    page.wait(f"document.querySelectorAll('tr.device').length === {count}")


def row_state(page: Browser, name: str) -> str:
    found = "find(row => row.querySelector('button').textContent"
    code = f"[...document.querySelectorAll('tr.device')].{found} === {json.dumps(name)})"
    return str(page.evaluate(f"{code}?.dataset.state"))


def choose(page: Browser, field: str, value: str) -> None:
    page.evaluate(f"document.getElementById({field!r}).value = {value!r}")
    page.evaluate(f"document.getElementById({field!r}).dispatchEvent(new Event('change'))")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_fleet_is_shown_without_a_fault_that_axe_finds(
    page: Browser, served: Gateway, fleet: AnnouncedFleet, size: tuple[int, int], scheme: str
) -> None:
    signed_in(page, served, size=size, scheme=scheme)
    wait_rows(page, len(fleet.names))
    assert page.text("#sum-devices") == str(len(fleet.names))
    assert sorted(rows(page)) == sorted(fleet.names)
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != (
        "rgb(246, 247, 249)"
    )
    assert dark == (scheme == "dark")
    assert not page.overflows()
    assert page.violations() == []
    page.click("tr.device button")
    page.wait("document.getElementById('device').open")
    assert page.text("#device-name") in fleet.names
    assert not page.overflows()
    if len(fleet.names) == 10:
        assert page.violations() == []
    assert page.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_a_chat_streams_and_has_no_fault_that_axe_finds(
    page: Browser,
    served: Gateway,
    file_broker: tools.MosquittoBroker,
    size: tuple[int, int],
    scheme: str,
) -> None:
    with device(file_broker.port, "sim-chat") as simulated:
        signed_in(page, served, "chat", size=size, scheme=scheme)
        page.wait("document.getElementById('target').value === 'toy'")
        page.evaluate("window.lengths = new Set()")
        page.evaluate(
            "void new MutationObserver(() => window.lengths.add("
            "document.querySelector('.turn:last-child .text').textContent.length)).observe("
            "document.getElementById('turns'), "
            "{subtree: true, childList: true, characterData: true})"
        )
        page.type("#prompt", "say 40 50")
        page.press("Enter")
        page.wait("document.getElementById('turns').textContent.includes('40 tokens')")
        assert "".join(f"w{n} " for n in range(40)) in page.text("#turns")
        # nothing, all of it, and something between: it came in pieces
        assert page.evaluate("window.lengths.size") > 2
        note = page.text(".turn:last-child .note")
        assert note.startswith("sim-chat · 40 tokens · ")
        assert "tokens/s" in note
        page.type("#prompt", "and then?")
        page.press("Enter")
        page.wait("document.getElementById('turns').textContent.includes('You said: and then?')")
        (told,) = [
            p.body["messages"] for p in simulated.prompts.values() if len(p.body["messages"]) > 1
        ]
        assert [each["role"] for each in told] == ["user", "assistant", "user"]
        assert not page.overflows()
        assert page.violations() == []
        assert page.complaints() == []


def test_an_answer_is_stopped_at_its_device_and_a_system_prompt_goes_with_it(
    page: Browser, served: Gateway, file_broker: tools.MosquittoBroker
) -> None:
    with device(file_broker.port, "sim-stop") as simulated:
        signed_in(page, served, "chat")
        page.wait("document.getElementById('target').value === 'toy'")
        page.click("#system-box summary")
        page.type("#system", "Be brief.")
        page.type("#most", "300")
        page.evaluate("document.getElementById('target').value = 'pool:kitchen'")
        page.type("#prompt", "say 300 50")
        page.click("#send")
        page.wait("document.getElementById('turns').textContent.includes('w2 ')")
        page.click("#stop")
        page.wait("document.getElementById('turns').textContent.includes('stopped')")
        tools.eventually(lambda: any(p.cancelled.is_set() for p in simulated.prompts.values()), 10)
        (prompt,) = simulated.prompts.values()
        assert prompt.body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert prompt.body["max_tokens"] == 300
        # Escape does the same
        page.type("#prompt", "say 300 50")
        page.press("Enter")
        page.wait("document.querySelectorAll('.turn').length === 4")
        page.wait("document.querySelector('.turn:last-child').textContent.includes('w2 ')")
        page.press("Escape")
        tools.eventually(lambda: all(p.cancelled.is_set() for p in simulated.prompts.values()), 10)
        page.wait(
            "document.querySelector('.turn:last-child .note').textContent.endsWith('stopped')"
        )
        assert len(simulated.prompts) == 2


def test_a_prompt_that_is_stopped_before_its_answer_is_no_part_of_the_conversation(
    page: Browser, served: Gateway, file_broker: tools.MosquittoBroker
) -> None:
    with device(file_broker.port, "sim-mute") as simulated:
        signed_in(page, served, "chat")
        page.wait("document.getElementById('target').value === 'toy'")
        page.type("#prompt", "accept")
        page.press("Enter")
        tools.eventually(lambda: simulated.computed, 10)
        page.click("#stop")
        page.wait("document.querySelector('.turn:last-child .note').textContent === 'stopped'")
        page.wait("document.getElementById('prompt').value === 'accept'")
        page.evaluate("document.getElementById('prompt').value = ''")
        page.type("#prompt", "hello")
        page.press("Enter")
        page.wait("document.getElementById('turns').textContent.includes('You said: hello')")
        told = [each.body["messages"] for each in simulated.prompts.values()]
        assert [{"role": "user", "content": "hello"}] in told


def test_a_refusal_is_shown_and_the_prompt_comes_back(
    page: Browser, served: Gateway, file_broker: tools.MosquittoBroker
) -> None:
    with device(file_broker.port, "sim-no"):
        signed_in(page, served, "chat")
        page.wait("document.getElementById('target').value === 'toy'")
        page.type("#prompt", "refuse invalid_request")
        page.press("Enter")
        page.wait("document.querySelector('.turn.failed') !== null")
        assert "refuse as asked" in page.text(".turn.failed .note")
        assert page.evaluate("document.getElementById('prompt').value") == "refuse invalid_request"
        assert page.violations() == []
        # it was no part of the conversation
        page.evaluate("document.getElementById('prompt').value = ''")
        page.type("#prompt", "hello")
        page.press("Enter")
        page.wait("document.getElementById('turns').textContent.includes('You said: hello')")


def test_half_an_answer_is_not_taken_for_one(
    page: Browser, served: Gateway, file_broker: tools.MosquittoBroker
) -> None:
    """As a proxy cuts it that has had enough."""
    half = """
      const chunk = 'data: {"choices":[{"delta":{"content":"half of it"}}]}\\n\\n';
      const real = window.fetch;
      window.fetch = (path, more) =>
        path.includes("completions") ? Promise.resolve(new Response(chunk)) : real(path, more);
    """
    with device(file_broker.port, "sim-half"):
        signed_in(page, served, "chat")
        page.wait("document.getElementById('target').value === 'toy'")
        page.evaluate(f"(() => {{{half}}})()")
        page.type("#prompt", "hello")
        page.press("Enter")
        page.wait("document.querySelector('.turn.failed') !== null")
        assert "half of it" in page.text(".turn.failed .text")
        assert "ended before the answer" in page.text(".turn.failed .note")
        assert page.evaluate("document.getElementById('prompt').value") == "hello"
        page.reload()  # with the browser's own fetch


def test_what_models_and_devices_say_is_text(
    page: Browser, served: Gateway, file_broker: tools.MosquittoBroker
) -> None:
    name = MARKUP.replace("/", "").replace("+", "")  # a level of a topic
    simulated = SimulatedDevice(file_broker.port, name, model=MARKUP, pools=(MARKUP,))
    try:
        simulated.say_state("degraded", reason=MARKUP)
        signed_in(page, served)
        wait_rows(page, 1)
        assert rows(page) == [name]
        page.click("tr.device button")
        page.wait("document.getElementById('device').open")
        assert MARKUP in page.text("#device-facts")
        page.press("Escape")
        choose(page, "by", "pools")
        page.wait("document.querySelector('tr.heading') !== null")
        page.click("#to-chat")
        page.wait("document.getElementById('target').value !== ''")
        page.type("#prompt", MARKUP)
        page.press("Enter")
        page.wait("document.getElementById('turns').textContent.includes('You said: ')")
        assert f"You said: {MARKUP}" in page.text("#turns")
        assert page.evaluate("document.querySelectorAll('img, main script').length") == 0
        assert page.evaluate("typeof window.hacked") == "undefined"
        assert page.complaints() == []
    finally:
        simulated.close()


def test_the_policy_stops_markup_that_a_defect_would_make(page: Browser, served: Gateway) -> None:
    page.open(f"{served.url}/")
    tried = page.evaluate(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'made' } "
        "catch (error) { return error.name } })()"
    )
    assert tried == "TypeError"
    page.evaluate(
        "void document.body.append(Object.assign(document.createElement('img'), "
        "{src: 'https://elsewhere.test/x'}))"
    )
    page.wait("true", 1)
    tools.eventually(lambda: any("Content Security Policy" in c for c in page.complaints()), 5)


def test_filter_sort_and_sections_by_the_keyboard(
    page: Browser, served: Gateway, ten: AnnouncedFleet
) -> None:
    signed_in(page, served)
    wait_rows(page, 10)
    page.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "filter"
    page.type("#filter", "hall berlin")
    wait_rows(page, 1)
    page.evaluate("document.getElementById('filter').select()")
    page.press("Backspace")
    wait_rows(page, 10)
    by_name = rows(page)
    assert by_name == sorted(by_name)
    page.evaluate("document.querySelector('[data-key=name] button').focus()")
    page.press("Enter")
    page.wait("document.querySelector('[data-key=name]').ariaSort === 'descending'")
    tools.eventually(lambda: rows(page) == by_name[::-1], 5)
    page.press("Tab", "Enter")  # by state
    page.wait("document.querySelector('[data-key=state]').ariaSort === 'ascending'")
    tools.eventually(lambda: row_state(page, rows(page)[0]) == "degraded", 5)
    page.evaluate("document.getElementById('by').focus()")
    page.press("ArrowDown")
    page.wait("document.querySelectorAll('tr.heading').length === 3")
    assert page.text("tr.heading th").startswith("gate · 2 devices, 2 answering")
    page.evaluate("document.querySelector('#chips [data-state=degraded]').focus()")
    page.press("Enter")
    wait_rows(page, 1)
    assert page.evaluate("document.activeElement.ariaPressed") == "true"
    page.press("Enter")  # the chip kept the focus
    wait_rows(page, 10)
    page.evaluate("document.querySelector('tr.device button').focus()")
    page.press("Enter")
    page.wait("document.getElementById('device').open")
    page.press("Escape")
    assert page.evaluate("document.activeElement.closest('tr.device') !== null")
    assert page.violations() == []


def test_groups_and_rollouts_of_a_project_are_shown(
    page: Browser, file_broker: tools.MosquittoBroker, ten: AnnouncedFleet, tmp_path: Path
) -> None:
    lines = [f'[devices."{name}"]\naddress = "pull:"' for name in ten.names]
    lines += ["[groups]", f"north = {json.dumps(ten.names[:3])}"]
    (tmp_path / "fleet.toml").write_text("\n".join(lines))
    story = rollout_stories.paused()
    book = RolloutBook(tmp_path / ".edgekit" / "rollouts")
    _, journal = book.create(story.plan, rollout_stories.BEGIN)
    rollout_stories.write(journal, story)
    with gateway(tmp_path, file_broker.port) as served:
        signed_in(page, served, size=PHONE)
        wait_rows(page, 10)
        page.wait("!document.getElementById('rollouts').hidden")
        assert page.text(".phase") == "paused"
        said = page.text("#rollout-list .soft")
        assert said.startswith("wave 3 of 3 · 6 good, 3 on trial, 4 staging, 11 waiting")
        assert page.violations() == []
        assert not page.overflows()
        choose(page, "group", "north")
        wait_rows(page, 3)
        choose(page, "group", "")
        choose(page, "by", "groups")
        page.wait("document.querySelectorAll('tr.heading').length === 2")
        assert page.violations() == []
        story.tell(AbortOrdered(rollout_stories.BY))
        del story.journal[:-1]
        rollout_stories.write(journal, story)
        page.wait("document.querySelector('.phase').textContent === 'aborted'")


def test_a_device_that_is_killed_shows_at_once_and_is_announced(
    page: Browser, served: Gateway, file_broker: tools.MosquittoBroker
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.simulated_device", str(file_broker.port), "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        signed_in(page, served)
        tools.eventually(lambda: row_state(page, "sim-0") == "ready", 10)
        process.kill()
        tools.eventually(lambda: row_state(page, "sim-0") == "lost", LOST_SECONDS)
        assert page.text("#announce") == "sim-0 is lost."
        assert page.text("#sum-trouble") == "1"
        assert page.text("#sum-taking") == "0"
        page.click("#to-chat")
        page.wait("document.getElementById('send').disabled")
    finally:
        process.kill()
        process.wait(10)
        ended = SimulatedDevice(file_broker.port, "sim-0")
        ended.close()
    page.click("#to-fleet")
    wait_rows(page, 0)  # it was forgotten


def test_a_page_stays_responsive_while_200_devices_change_each_second(
    page: Browser, served: Gateway, file_broker: tools.MosquittoBroker
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.announced_fleet", str(file_broker.port), "200"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        signed_in(page, served)
        wait_rows(page, 200)
        page.click("[data-key=tok_s] button")  # so that rows change places, too
        page.evaluate("""(() => {
          window.seen = { gaps: [], writes: 0 };
          let last = performance.now();
          const frame = (now) => {
            window.seen.gaps.push(now - last);
            last = now;
            requestAnimationFrame(frame);
          };
          requestAnimationFrame(frame);
          new MutationObserver((found) => { window.seen.writes += found.length }).observe(
            document.getElementById('devices'), { subtree: true, childList: true });
        })()""")
        time.sleep(5)
        page.type("#filter", "turin")
        page.wait("document.querySelectorAll('tr.device').length === 50")
        seen = page.evaluate("window.seen")
        gaps = sorted(seen["gaps"])
        print(f"frames={len(gaps)} median_ms={gaps[len(gaps) // 2]:.0f} "
              f"p95_ms={gaps[len(gaps) * 95 // 100]:.0f} writes={seen['writes']}")  # fmt: skip
        assert seen["writes"] > 200  # rows did change
    finally:
        process.communicate("", timeout=60)


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(page: Browser, served: Gateway) -> None:
    page.open(f"{served.url}/")
    page.wait("document.getElementById('key-dialog').open")
    assert page.violations() == []
    page.type("#key-field", "ek-wrong")
    page.press("Enter")
    page.wait("document.getElementById('key-wrong').textContent !== ''")
    assert "does not know this key" in page.text("#key-wrong")
    page.type("#key-field", served.keys["bob"])
    page.press("Enter")
    page.wait("document.getElementById('live').dataset.live === 'on'")
    kept = page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    assert served.keys["bob"] not in kept[0]
    assert served.keys["bob"] in kept[1]
    page.click("#key")
    page.click("#key-forget")
    page.wait("document.getElementById('key-dialog').open")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_in_the_address_leaves_it_at_once(page: Browser, served: Gateway) -> None:
    signed_in(page, served)
    assert page.evaluate("location.href") == f"{served.url}/#fleet"
    assert served.keys["alice"] not in page.evaluate("document.documentElement.outerHTML")


def test_a_key_that_comes_into_an_open_tab_takes_the_place_of_a_dead_one(
    page: Browser, served: Gateway
) -> None:
    signed_in(page, served)
    page.evaluate("sessionStorage.setItem('edgekit-key', 'ek-dead')")
    page.reload()
    page.wait("document.getElementById('key-dialog')?.open")
    page.evaluate(f"location.hash = 'key={served.keys['bob']}'")
    page.wait("document.getElementById('live').dataset.live === 'on'")
    assert not page.evaluate("document.getElementById('key-dialog').open")
    assert page.evaluate("location.hash") == "#fleet"
    page.evaluate(f"location.hash = 'key={served.keys['alice']}'")  # without the dialog
    page.wait("location.hash === '#fleet'")
    assert served.keys["alice"] in page.evaluate("JSON.stringify(sessionStorage)")


def test_an_address_that_cannot_be_decoded_stops_nothing(page: Browser, served: Gateway) -> None:
    signed_in(page, served)
    page.evaluate("location.hash = 'chat=%'")
    page.reload()
    page.wait("document.getElementById('live').dataset.live === 'on'")
    assert page.complaints() == []


def test_a_page_that_is_not_seen_holds_no_connection(page: Browser, served: Gateway) -> None:
    signed_in(page, served)
    page.evaluate("""(() => {
      window.asked = [];
      const real = window.fetch;
      window.fetch = (path, given) => { window.asked.push(given.signal); return real(path, given) };
      window.seen = (yes) => {
        Object.defineProperty(document, 'hidden', { value: !yes, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
      };
    })()""")
    page.evaluate("window.seen(false)")
    page.evaluate("window.seen(true)")
    page.wait("document.getElementById('live').dataset.live === 'on' && window.asked.length > 0")
    assert page.evaluate("window.asked.map(each => each.aborted)") == [False]
    page.evaluate("window.seen(false)")
    assert page.evaluate("window.asked.map(each => each.aborted)") == [True]


def test_a_refusal_of_the_gateway_is_told_as_one(page: Browser, served: Gateway) -> None:
    asked = (
        f"GET /fleet/events HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {served.keys['bob']}\r\n\r\n"
    ).encode()
    with ExitStack() as stack:
        for _ in range(MOST_OF_ONE):
            each = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 20))
            each.sendall(asked)
            assert each.recv(12) == b"HTTP/1.1 200"
        page.open(f"{served.url}/#key={served.keys['bob']}")
        page.wait("document.getElementById('banner').textContent.includes('16 of one requester')")
        assert "No connection" not in page.text("#banner")
    page.wait("document.getElementById('live').dataset.live === 'on'", 30)


def test_how_long_a_state_lasts_is_the_gateways_measure_where_it_heard_it_begin(
    page: Browser, served: Gateway
) -> None:
    page.open(f"{served.url}/")
    page.evaluate("import('/page/words.js').then((found) => { window.lasting = found.lasting })")
    page.wait("typeof window.lasting === 'function'")
    day = 86400
    for since, first, begin, wanted in [
        (5 * day, 1000 * day, True, "2 d"),  # its clock is years behind
        (990 * day, 1000 * day, False, "12 d by its clock"),
        (5 * day, 1000 * day, False, "2 d or longer"),
        (1001 * day, 1000 * day, False, "2 d or longer"),
        (0, 1000 * day, False, "2 d or longer"),
    ]:
        device = json.dumps({"since": since, "heard_first": first, "heard_begin": begin})
        assert page.evaluate(f"window.lasting({device}, {1002 * day})") == wanted


def test_the_theme_is_switched_and_stays(page: Browser, served: Gateway) -> None:
    signed_in(page, served, scheme="light")
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(colour)
    page.click("#theme")  # light, whatever the system says
    page.click("#theme")
    assert page.evaluate("document.getElementById('theme').ariaLabel") == "Theme: dark"
    assert page.evaluate(colour) != light
    page.reload()
    page.wait("document.documentElement.dataset.theme === 'dark'")
    page.click("#theme")
    assert page.evaluate(colour) == light


def test_a_gateway_that_ends_and_comes_back_is_followed(
    page: Browser, file_broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    with gateway(tmp_path / "one", file_broker.port) as first:
        signed_in(page, first)
        first.process.kill()
        page.wait("document.getElementById('live').dataset.live === 'off'")
        page.wait("document.getElementById('banner').textContent.startsWith('No connection')")
        assert page.violations() == []
        keys = first.file.read_bytes()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "keys.json").write_bytes(keys)
    (tmp_path / "two" / "keys.json").chmod(0o600)
    with gateway(tmp_path / "two", file_broker.port, port=first.port):
        page.wait("document.getElementById('live').dataset.live === 'on'", 30)
        assert page.evaluate("document.getElementById('banner').hidden")


def test_every_file_of_the_page_is_there() -> None:
    found = files.load()
    assert files.INDEX in found
    text = b"".join(each.data for each in found.values()).decode()
    for name in found:
        assert name in (files.INDEX, "icon.svg") or f"/{name}" in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "innerHTML" not in text
    assert topics.PREFIX not in text  # no MQTT in a page
    assert wire.JSON in text
