"""Clients that know nothing of edgekit: mosquitto's own request/response tool."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests import tools
from tests.conftest import Project

pytestmark = pytest.mark.timeout(120)


def mosquitto_rr(device: Project, message: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Publish one prompt and print the first reply."""
    return subprocess.run(
        [
            *(tools.find("mosquitto_rr"), "-V", "5", "-h", "127.0.0.1", "-p", str(device.port)),
            *("-q", "1", "-W", "60", "-t", "edgekit/v1/req/dev/demo/stranger"),
            *("-e", "edgekit/v1/res/stranger/1", "-m", message),
            *("-D", "publish", "correlation-data", "one"),
            *("-D", "publish", "message-expiry-interval", "60", *more),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


PROMPT = json.dumps({"messages": [{"role": "user", "content": "What is the capital of France?"}]})
FINAL_ONLY = ("-D", "publish", "user-property", "ek-want", "final")


def test_mosquitto_rr_gets_one_chat_completion(device: Project) -> None:
    done = mosquitto_rr(device, PROMPT, *FINAL_ONLY)
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["object"] == "chat.completion"
    assert "Paris" in body["choices"][0]["message"]["content"]


def test_a_body_that_is_not_json_gets_an_error_and_the_device_goes_on(device: Project) -> None:
    done = mosquitto_rr(device, "tell me a joke", *FINAL_ONLY)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "invalid_request"
    assert "JSON" in error["message"]
    assert "Paris" in mosquitto_rr(device, PROMPT, *FINAL_ONLY).stdout


def test_retained_garbage_of_a_stranger_is_no_device(device: Project) -> None:
    topic = "edgekit/v1/dev/not-an-agent/status"
    publish = [tools.find("mosquitto_pub"), "-V", "5", "-p", str(device.port), "-r", "-t", topic]
    subprocess.run([*publish, "-m", "[not json"], check=True, timeout=30)
    try:
        done = device.run("devices")
    finally:
        subprocess.run([*publish, "-n"], check=True, timeout=30)
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert "not-an-agent" not in done.stdout
    assert "Traceback" not in done.stderr


def test_an_answer_goes_nowhere_but_below_the_requester_s_own_name(device: Project) -> None:
    done = subprocess.run(
        [
            *(tools.find("mosquitto_rr"), "-V", "5", "-h", "127.0.0.1", "-p", str(device.port)),
            *("-q", "1", "-W", "3", "-t", "edgekit/v1/req/dev/demo/stranger"),
            *("-e", "edgekit/v1/res/victim/1", "-m", PROMPT, *FINAL_ONLY),
            *("-D", "publish", "correlation-data", "one"),
            *("-D", "publish", "message-expiry-interval", "60"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == ""
