"""Real devices in one network with one real Mosquitto: `with devices(folder, 10) as fleet:`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import tools
from tests.fleet import network
from tests.fleet.place import Place, Started, place
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
    folder: Path, count: int, *, memory: str = "2g", folder_goes: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[Devices]:  # fmt: skip
    """A fleet for the length of a block.

    Args:
        folder: takes keys, the broker's files and the ssh configuration.
        count: of devices.
        memory: of each of them.
        folder_goes: whether the folder is removed with the fleet, also by the next fleet where
            this one is killed.
        report: told what is done.
    """
    assert 0 < count <= MOST, count
    image = ready_image()
    with ExitStack() as stack:
        ours = stack.enter_context(place())
        names = [ours.name(number) for number in range(1, count + 1)]
        ours.started = Started(str(image), names, str(folder) if folder_goes else "")
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
        made = {
            f"edge-{number}": SystemdDevice(
                image, folder, name, ours.address(FIRST_END + number - 1), ours.address(1),
                hostname=f"edge-{number}",
            )
            for number, name in enumerate(names, 1)
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
