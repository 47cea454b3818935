"""What a push brings: the release with what signs it, and each device's configuration."""

from __future__ import annotations

import threading

from edgekit.bundle.layers import bootstrap
from edgekit.cli import project, render
from edgekit.cli.release.trust import present, reference_of, trust_of
from edgekit.core.config import AgentConfig, agent_config
from edgekit.core.manifest import Descriptor
from edgekit.fleet.inventory import Fleet
from edgekit.fleet.push import ReleaseSource
from edgekit.signing.releases import vouch
from edgekit.trust.pinned import PinnedManifest
from edgekit.trust.signed import Metadata


def configs_of(here: project.Project, fleet: Fleet, names: list[str]) -> dict[str, AgentConfig]:
    """The `agent.toml` of each device; raises UsageError where one is not valid."""
    found, warned = {}, ""
    for name in names:
        broker = fleet.broker_of(name, here.broker)
        if broker.warning != warned:  # mostly it is one broker for all
            render.warn(warned := broker.warning)
        found[name] = agent_config(name, broker, fleet.devices[name], fleet.pull_of(name))
    return found


def source_of(here: project.Project, pinned: PinnedManifest) -> ReleaseSource:
    """The release with what signs it; its first contact is made once for all devices."""
    made: dict[str, tuple[str, bytes]] = {}
    making = threading.Lock()

    def make_bootstrap(runtime: Descriptor) -> tuple[str, bytes]:
        with making:
            if runtime.digest not in made:
                made[runtime.digest] = bootstrap(here.store, pinned.manifest, runtime)
            return made[runtime.digest]

    metadata = _signed(here, pinned, reference_of(here.store, pinned))
    return ReleaseSource(pinned, metadata, here.store, make_bootstrap)


def _signed(here: project.Project, pinned: PinnedManifest, reference: str) -> Metadata:
    """What signs a bundle, fresh enough for devices; raises VerificationError before a push."""
    vouched = vouch(trust_of(here.folder), pinned.digest, reference, present())
    for warning in vouched.warnings:
        render.warn(warning)
    return vouched.metadata
