"""The embedded broker for trials and tests: rumqttd from a wheel.

The only door to iotcore. It listens on loopback and has no accounts; a fleet needs a real broker
like Mosquitto. `tests/contract/broker_capabilities.py` names the features that it lacks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iotcore import Broker

from edgekit.errors import EdgekitError

MAX_PAYLOAD_BYTES = 1 << 20  # the default of 20 KiB is below the protocol's 128 KiB

_CONFIG = """\
id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 1000
max_segment_size = 16777216
max_segment_count = 8
[v5.1]
name = "edgekit"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {payload}
max_inflight_count = 500
dynamic_filters = true
"""


@contextmanager
def embedded_broker(host: str, port: int) -> Iterator[None]:
    """Run a broker on `host:port` while the context lasts.

    Raises:
        EdgekitError: another process has the port, or the broker does not start.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-broker-") as folder:
        path = Path(folder) / "rumqttd.toml"
        path.write_text(_CONFIG.format(host=host, port=port, payload=MAX_PAYLOAD_BYTES))
        broker = Broker(config_path=str(path))
        try:
            broker.start()
        except (OSError, RuntimeError) as error:
            raise EdgekitError(
                f"no broker can listen on {host}:{port}",
                str(error),
                "choose another port with --port, or use the broker that is there",
            ) from error
        try:
            yield
        finally:
            broker.stop()
