"""The client that the tests drive, and a broker of one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.mqtt.threaded import MqttClient
from tests import tools
from tests.contract.clients import Client
from tests.polled import Polled


@pytest.fixture(params=[MqttClient, Polled])
def either_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both, one after the other."""
    monkeypatch.setattr(Client, "drive", request.param)


@pytest.fixture
def polled_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's."""
    monkeypatch.setattr(Client, "drive", Polled)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[tools.MosquittoBroker]:
    """A broker that the test may stop and start again."""
    with tools.mosquitto(tmp_path) as real:
        yield real
