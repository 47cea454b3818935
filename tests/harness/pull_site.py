"""Devices that pull: a real registry, a Mosquitto with generated rights, real agents that are
started as after a boot, and an operator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor.detached import Detached
from edgekit.bundle.layout import Layout
from edgekit.core.config import BrokerConfig
from edgekit.core.digest import Digest
from edgekit.core.protocol import topics
from edgekit.core.protocol.payloads import DesiredPayload
from tests import tools
from tests.conftest import PACK, Project, make_project
from tests.harness.registry import Registry, registry
from tests.harness.site import Client, Site, serving

OPERATOR = "operator"
HERE, LATE = "demo", "late"
WAIT_SECONDS = 120.0


@dataclass
class PullSite:
    """All of it."""

    project: Project
    site: Site
    registry: Registry
    model: Path

    @property
    def operator(self) -> BrokerConfig:
        return self.site.config(OPERATOR)

    def root(self, device: str) -> Root:
        return Root(self.project.root(device))

    def current(self, device: str) -> Digest | None:
        root = self.root(device)
        return root.linked(root.current)

    def runs(self, device: str, bundle: str) -> bool:
        """Whether a device runs a bundle, calls it good and answers."""
        root, wanted = self.root(device), self.digest(bundle)
        row = Releases(root.path).get(wanted)
        good = row is not None and row.state == "good"
        return good and self.current(device) == wanted and root.ready_file.exists()

    def digest(self, bundle: str) -> Digest:
        return Layout(self.project.store).resolve(bundle).digest

    def pack(self, bundle: str) -> None:
        name, _, version = bundle.partition(":")
        self.project.edgekit("pack", str(self.model), "--name", name, "--version", version, *PACK)

    def update(self, device: str) -> dict[str, Any]:
        """What the updater has written last."""
        try:
            told: dict[str, Any] = json.loads(self.root(device).update_file.read_bytes())
        except FileNotFoundError:
            return {}
        return told

    def says(self, device: str, state: str, word: str = "", order: int = 0) -> bool:
        told = self.update(device)
        said = f"{told.get('reason', '')}"
        return told.get("state") == state and word in said and order in (0, told.get("order"))

    def off(self, device: str) -> None:
        """Cut a device off: its supervisor and its agent end."""
        pid = Detached(self.root(device)).pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            tools.eventually(lambda: Detached(self.root(device)).pid() is None, what="it is off")

    def on(self, device: str) -> None:
        """Start a device as cron's @reboot does."""
        root = self.root(device)
        subprocess.Popen(
            [sys.executable, "-S", "-P", "-m", "edgekit.agent", "boot", "--root", str(root.path)],
            env=root.environment(root.current.resolve()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=root.log_file.open("ab"),
            start_new_session=True,
        )

    def forged(
        self, by: str, device: str, release: Digest, order: int, *, switch: bool = True
    ) -> int:
        """Publish a desired state with an account; the PUBACK's reason code."""
        client = Client(self.site, by)
        try:
            desired = DesiredPayload(str(release), "forged", 1, order, switch)
            topic = topics.desired_topic(device)
            return client.publish(topic, msgspec.json.encode(desired), retain=True)
        finally:
            client.paho.disconnect()
            client.paho.loop_stop()


def write_files(made: PullSite, pulling: Collection[str]) -> None:
    """edgekit.toml and fleet.toml; a device that does not pull is a folder of this machine."""
    site, folder = made.site, made.project.folder
    broker = {k: v for k, v in msgspec.structs.asdict(site.config("alice")).items() if v}
    operator = {"username": OPERATOR, "password_file": str(site.password(OPERATOR))}
    told = {"requester": "alice", "broker": broker, "operator": operator}
    (folder / "edgekit.toml").write_bytes(msgspec.toml.encode(told))
    passwords = site.written / "passwords" / "{device}"
    (folder / "fleet.toml").write_text(
        _fleet(made.registry.url, pulling)
        + f'[broker]\nusername = "{{device}}"\npassword_file = "{passwords}"\n'
    )


def _fleet(url: str, pulling: Collection[str]) -> str:
    lines = [f'[pull]\nregistry = "{url}"\nmbit_per_second = 240\n']
    for name in (HERE, LATE):
        address = "pull:" if name in pulling else f"local:.edgekit/devices/{name}"
        lines.append(f'[devices.{name}]\naddress = "{address}"\nthreads = 1\n')
    lines.append(f'[groups]\nkiosks = ["{HERE}", "{LATE}"]\n[rollout]\nlate_seconds = 5\n')
    return "".join(lines)


@contextmanager
def pull_site(folder: Path, model: Path) -> Iterator[PullSite]:
    """Two devices that run smollm2:1 and pull from now on; both are on."""
    project = make_project(folder / "project", 1, model)
    project.copy_root(model)
    with registry(folder / "registry") as real:
        (project.folder / "fleet.toml").write_text(_fleet(real.url, ()))
        (folder / "site").mkdir()
        with serving(project, folder / "site", "acl", "--operator", OPERATOR) as site:
            made = PullSite(project, site, real, model)
            project.port = site.ports["passwords"]
            write_files(made, ())
            try:
                project.edgekit("push", HERE, LATE, "--bundle", "smollm2:1")
                write_files(made, (HERE, LATE))
                yield made
            finally:
                for name in (HERE, LATE):
                    made.off(name)
