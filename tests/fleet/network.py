"""One private network for a fleet: a bridge, a cable and a namespace for each device.

No namespace has a default route, so nothing that a device sends leaves this machine.
"""

from __future__ import annotations

import subprocess

from tests import tools
from tests.harness.systemd_device import ip

LOSS = """
table inet loss {{
    chain in {{ type filter hook input priority 0; numgen random mod 1000 < {share} drop; }}
    chain out {{ type filter hook output priority 0; numgen random mod 1000 < {share} drop; }}
}}
"""


def bridge(name: str, address: str) -> None:
    """Lay the network; `address` is this host's."""
    ip("link", "add", name, "type", "bridge")
    ip("addr", "add", f"{address}/24", "dev", name)
    ip("link", "set", name, "up")


def join(name: str, to: str, address: str) -> None:
    """A namespace with one cable to the bridge `to`; the cable's end here has the same name."""
    ip("netns", "add", name)
    ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("link", "set", name, "master", to, "up")
    for link in ("eth0", "lo"):
        ip("-n", name, "link", "set", link, "up")
    ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")


def lose(name: str, percent: float) -> None:
    """Drop this share of the packets of a namespace, each way, by chance; 0: none."""
    rules = "add table inet loss\ndelete table inet loss\n"
    if percent:
        rules += LOSS.format(share=round(percent * 10))
    subprocess.run(
        [tools.find("ip"), "netns", "exec", name, tools.find("nft"), "-f", "-"],
        input=rules.encode(),
        check=True,
        capture_output=True,
        timeout=30,
    )
