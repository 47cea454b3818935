"""Real devices in one network with one real Mosquitto: `with devices(folder, 10) as fleet:`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.core.manifest import oci_platform
from tests import tools
from tests.fleet import network
from tests.fleet.place import Place, Started, place
from tests.harness.emulation import emulated_arm64
from tests.harness.systemd_device import SystemdDevice, ready_image

FIRST_END = 11  # of the devices' addresses
AT_ONCE = 4  # containers that start at the same time
MOST = 200


@dataclass
class Devices:
    """Running devices by their names `edge-1`, `edge-2` and so on, and the broker that they reach.

    Attributes:
        home: takes the ssh configuration; $HOME of the commands.
        port: of the broker, at `host_address`.
    """

    home: Path
    place: Place
    all: dict[str, SystemdDevice]
    port: int

    @property
    def host_address(self) -> str:
        """This host's end of the network."""
        return self.place.address(1)

    @property
    def platforms(self) -> list[str]:
        """The OCI platforms of the devices."""
        kinds = dict.fromkeys(device.emulates for device in self.all.values())
        return [f"linux/{kind}" if kind else oci_platform(platform.machine()) for kind in kinds]

    def write_ssh(self, roads: dict[str, int] | None = None) -> None:
        """Write the ssh configuration.

        Args:
            roads: a port on 127.0.0.1 by which a device is reached in the place of its address.
        """
        told = []
        for name, device in self.all.items():
            lines = device.ssh_config()
            if port := (roads or {}).get(name):
                lines = lines.replace(
                    f"HostName {device.address}", f"HostName 127.0.0.1\n  Port {port}"
                )
                lines += f"  HostKeyAlias {device.address}\n"
            told.append(lines)
        folder = self.home / ".ssh"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "config").write_text("".join(told))


@contextmanager
def devices(
    folder: Path, count: int, *, arm64: int = 0, memory: str = "2g", folder_goes: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[Devices]:  # fmt: skip
    """A fleet for the length of a block.

    Args:
        folder: takes keys, the broker's files and the ssh configuration.
        count: of devices.
        arm64: how many of them, the last ones, are of arm64, which is emulated.
        memory: of each of them.
        folder_goes: whether the folder is removed with the fleet, also by the next fleet where
            this one is killed.
        report: told what is done.
    """
    assert 0 < count <= MOST, count
    assert 0 <= arm64 <= count, arm64
    image = ready_image()
    with ExitStack() as stack:
        emulated = image
        if arm64:
            stack.enter_context(emulated_arm64())
            report("the root file system of arm64, made once and kept in the cache")
            emulated = ready_image("arm64")
        ours = stack.enter_context(place())
        names = [ours.name(number) for number in range(1, count + 1)]
        ours.started = Started(
            str(image), str(emulated) if arm64 else "", names, str(folder) if folder_goes else ""
        )
        ours.note()
        folder.mkdir(parents=True, exist_ok=True)
        report("network and broker")
        network.bridge(ours.bridge, ours.address(1))
        port = tools.free_port()
        site = folder / "broker"
        site.mkdir()
        listener = f"listener {port} {ours.address(1)}\n"
        broker = stack.enter_context(tools.mosquitto(site, more_config=listener))
        ours.started.processes.append((broker.pid, str(site)))
        ours.note()
        kinds = [""] * (count - arm64) + ["arm64"] * arm64
        images = {"": image, "arm64": emulated}
        made = {
            f"edge-{number}": SystemdDevice(
                images[kind], folder, name, ours.address(FIRST_END + number - 1), ours.address(1),
                hostname=f"edge-{number}", emulates=kind,
            )
            for number, (name, kind) in enumerate(zip(names, kinds, strict=True), 1)
        }  # fmt: skip
        for device in made.values():
            network.join(device.name, ours.bridge, device.address)
        report(f"{count} devices")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda device: device.start(memory), made.values()))
        for device in made.values():
            device.login()
        fleet = Devices(folder / "home", ours, made, port)
        fleet.write_ssh()
        yield fleet
