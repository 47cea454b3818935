"""What a gateway serves a browser, byte by byte: files, headers, the fleet, and who may have it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from edgekit.gateway import keys
from edgekit.gateway.page import files
from tests import tools
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.gateway import TODAY, Gateway, gateway

pytestmark = pytest.mark.timeout(120)


def bearer(served: Gateway, requester: str = "alice") -> dict[str, str]:
    return {"authorization": f"Bearer {served.keys[requester]}"}


def raw(port: int, target: str) -> tuple[int, bytes]:
    """Ask for a path as it is: no client mends its dots."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest("GET", target, skip_host=True)
        connection.putheader("host", "localhost")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["", *files.load()])
def test_a_file_has_its_kind_and_a_strict_policy(served: Gateway, name: str) -> None:
    answer = httpx2.get(f"{served.url}/page/{name}" if name else f"{served.url}/")
    assert answer.status_code == 200
    assert answer.content == files.load()[name or files.INDEX].data
    kind = files.KINDS[Path(name or files.INDEX).suffix]
    assert answer.headers["content-type"] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    again = httpx2.get(answer.url, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "access-control-allow-origin" not in answer.headers


def test_the_page_has_no_inline_script_style_or_handler() -> None:
    text = files.load()[files.INDEX].data.decode()
    assert "style=" not in text
    assert "<style" not in text
    assert " on" not in {part[:3] for part in text.split('"')}
    assert text.count("<script") == text.count("<script src=") + text.count(
        '<script type="module" s'
    )


@pytest.mark.parametrize(
    "target",
    [
        "/page/../keys.json", "/page/..%2fkeys.json", "/page/%2e%2e/%2e%2e/keys.json",
        "/page/..%5ckeys.json", "/page//etc/passwd", "/page/%2fetc%2fpasswd", "/page/",
        "/page/static/index.html", "/page/index.html%00.js", "/page/files.py", "/page/../files.py",
        "/page/.", "/page/..", "/../../../../etc/passwd", "/page/page.css/", "/page/PAGE.CSS",
        "/page/" + "a" * 5000,
    ],
)  # fmt: skip
def test_no_other_file_is_reached(served: Gateway, target: str) -> None:
    status, body = raw(served.port, target)
    assert status == 404, body
    assert set(json.loads(body)) == {"error"}


def test_the_fleet_needs_a_key(served: Gateway) -> None:
    for path in ("/fleet", "/fleet/events"):
        for headers in ({}, {"authorization": "Bearer ek-wrong"}):
            answer = httpx2.get(served.url + path, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        in_url = httpx2.get(f"{served.url}{path}?key={served.keys['alice']}")
        assert in_url.status_code == 401
        assert httpx2.post(served.url + path, headers=bearer(served)).status_code == 405


def test_the_fleet_is_told_whole_and_then_by_its_changes(
    served: Gateway, file_broker: tools.MosquittoBroker
) -> None:
    device = SimulatedDevice(file_broker.port, "sim-http", pools=("kitchen",))
    try:
        tools.eventually(
            lambda: "sim-http" in httpx2.get(f"{served.url}/fleet", headers=bearer(served)).text, 10
        )
        whole = httpx2.get(f"{served.url}/fleet", headers=bearer(served))
        assert whole.headers["cache-control"] == "no-store"
        (told,) = (each for each in whole.json()["devices"] if each["name"] == "sim-http")
        assert (told["model"], told["state"], told["pools"]) == ("toy", "ready", ["kitchen"])
        assert whole.json()["broker"] is True
        with httpx2.stream("GET", f"{served.url}/fleet/events", headers=bearer(served)) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.iter_lines()
            assert next(lines) == "event: fleet"
            assert "sim-http" in next(lines)
            device.say_state("busy", active=3)
            assert any(line.startswith("data: ") and '"active":3' in line for line in lines)
    finally:
        device.close()


def test_a_device_is_heard_when_it_speaks_and_not_when_the_broker_remembers_it(
    file_broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    device = SimulatedDevice(file_broker.port, "sim-kept")
    try:
        device.say_state("busy", active=1, tok_s=7)
        with gateway(tmp_path, file_broker.port) as served:

            def told() -> dict[str, Any]:
                whole = httpx2.get(f"{served.url}/fleet", headers=bearer(served)).json()
                (found,) = (each for each in whole["devices"] if each["name"] == "sim-kept")
                return dict(found)

            assert (told()["state"], told()["heard"], told()["heard_begin"]) == ("busy", 0, False)
            device.say_state("ready")
            tools.eventually(lambda: told()["heard"] > 0, 10)
            assert told()["heard_begin"]
    finally:
        device.close()


def test_a_key_that_is_revoked_ends_its_stream(
    file_broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    with gateway(tmp_path, file_broker.port) as served:
        url = f"{served.url}/fleet/events"
        with httpx2.stream("GET", url, headers=bearer(served, "bob"), timeout=30) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "event: fleet"
            keys.revoke(served.file, "bob")
            began = time.monotonic()
            assert list(lines)
            assert time.monotonic() - began < 60  # 10.5 s where nothing else runs
        assert httpx2.get(url, headers=bearer(served, "bob")).status_code == 401


def test_a_gateway_stops_although_pages_watch(
    file_broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    with gateway(tmp_path, file_broker.port) as served:
        url = f"{served.url}/fleet/events"
        with httpx2.stream("GET", url, headers=bearer(served)) as stream:
            next(stream.iter_lines())
            began = time.monotonic()
            assert served.stop() == 0
            assert time.monotonic() - began < 25  # the drain may take 30


def test_edgekit_page_prints_an_address_with_a_key_that_ends_with_it(
    file_broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONUNBUFFERED": "1"}
    command = (sys.executable, "-m", "edgekit", "page", "--broker", f"127.0.0.1:{file_broker.port}")
    with tools.interruptible():
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )
    try:
        assert process.stdout is not None
        word, address = process.stdout.readline().split()
        assert word == "page"
        url, _, key = address.partition("/#key=")
        assert url.startswith("http://127.0.0.1:")
        assert httpx2.get(f"{url}/").status_code == 200
        (folder,) = (tmp_path / "tmp").glob("edgekit-page-*")
        assert folder.stat().st_mode & 0o077 == 0
        held = {"authorization": f"Bearer {key}"}
        assert httpx2.get(f"{url}/fleet", headers=held).json()["broker"] is True
        assert httpx2.get(f"{url}/fleet").status_code == 401
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert not list((tmp_path / "tmp").iterdir())


def test_edgekit_page_says_what_to_do_where_the_port_is_taken(
    file_broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "edgekit", "page"),
                *("--broker", f"127.0.0.1:{file_broker.port}"),
                *("--port", str(taken.getsockname()[1])),
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "name another --host or --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_needs_a_gateway_with_keys_only(
    file_broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    """`edgekit gateway` prints where its page is."""
    keys.add(tmp_path / "keys.json", "alice", TODAY)
    command = [sys.executable, "-m", "edgekit", "gateway", "--port", "0", "--keys", "keys.json"]
    with tools.interruptible():
        process = subprocess.Popen(
            [*command, "--broker", f"127.0.0.1:{file_broker.port}"],
            cwd=tmp_path, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening  http://127.0.0.1:")
        word, url = process.stdout.readline().split()
        assert word == "page"
        assert httpx2.get(url).status_code == 200
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_a_head_of_the_events_ends_and_leaves_the_connection_free(served: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        head = f"Host: x\r\nAuthorization: Bearer {served.keys['alice']}\r\n\r\n"
        sock.sendall(f"HEAD /fleet/events HTTP/1.1\r\n{head}".encode())
        told = sock.recv(1 << 16)
        assert told.startswith(b"HTTP/1.1 200 ")
        assert b"text/event-stream" in told
        sock.sendall(f"GET /v1/models HTTP/1.1\r\n{head}".encode())
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
