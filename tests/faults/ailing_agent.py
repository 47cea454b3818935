"""The agent of a device, with something of it made worse. Run by its path:

    python -S -P ailing_agent.py SILENCE_SECONDS THERMAL serve --root ROOT

in the environment of a release. Its worker may be silent for SILENCE_SECONDS only, its temperature
is read from the folder THERMAL several times a second, its metrics are published every second, and
SIGUSR1 plants an exception in its loop. Nothing in the agent knows of this.
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

SILENCE_SECONDS, THERMAL = float(sys.argv[1]), Path(sys.argv[2])
del sys.argv[1:3]

import edgekit.agent.serve.loop.service  # noqa: E402  of the release
from edgekit.agent.__main__ import main  # noqa: E402  of the release
from edgekit.mqtt.polled import PolledClient  # noqa: E402  of the release

health: Any = sys.modules["edgekit.agent.serve.loop.health"]
session: Any = sys.modules["edgekit.agent.serve.session.session"]
service: Any = edgekit.agent.serve.loop.service
client: Any = PolledClient

health.longest_silence_seconds = lambda *_: SILENCE_SECONDS
service.read_sensors = partial(service.read_sensors, THERMAL)
session.MEASURE_SECONDS = 0.1
health.METRICS_SECONDS = 1.0
begin = client.start


def start(mqtt: Any) -> None:
    """Connect; and on a signal, fail in the loop."""

    def fail(*_: object) -> None:
        raise RuntimeError("planted")

    def plant(*_: object) -> None:
        mqtt._client.loop_misc = fail

    signal.signal(signal.SIGUSR1, plant)
    begin(mqtt)


client.start = start
main()
