"""Which client the tests drive: the one with a thread of its own, the agent's, or both."""

from __future__ import annotations

import pytest

from edgekit.mqtt.threaded import MqttClient
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
