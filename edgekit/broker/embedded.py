"""The embedded broker for trials and tests: rumqttd from a wheel.

The only door to iotcore. It listens on loopback and has no accounts; a fleet needs a real broker
like Mosquitto. `tests/contract/broker_capabilities.py` names the features that it lacks.
"""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iotcore import Broker

from edgekit.errors import EdgekitError, UsageError

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
listen = "{at}"
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
        UsageError: the host is no address.
        EdgekitError: another process has the port, or the broker does not start.
    """
    at = _address(host, port)
    with tempfile.TemporaryDirectory(prefix="edgekit-broker-") as folder:
        path = Path(folder) / "rumqttd.toml"
        path.write_text(_CONFIG.format(at=at, payload=MAX_PAYLOAD_BYTES))
        try:
            broker = Broker(config_path=str(path))
            broker.start()
        except (OSError, RuntimeError, ValueError) as error:
            raise EdgekitError(
                f"no broker can listen on {at}",
                str(error),
                "choose another port with --port, or use the broker that is there",
            ) from error
        try:
            yield
        finally:
            broker.stop()


def _address(host: str, port: int) -> str:
    """Where to listen, as rumqttd reads it: it takes addresses alone, and no names.

    Raises:
        UsageError: the host is no address.
    """
    text = "127.0.0.1" if host == "localhost" else host
    try:
        found = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise UsageError(
            f"{host!r} is no address of this machine",
            "the embedded broker listens on an address, and not on a name",
            "write --host 127.0.0.1, or --host 0.0.0.0 for every IPv4 address of this machine",
        ) from None
    return f"[{found}]:{port}" if found.version == 6 else f"{found}:{port}"
