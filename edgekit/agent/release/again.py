"""A push of what the device runs already: its offer does the work of all three verbs."""

from __future__ import annotations

from edgekit.agent.release import holder
from edgekit.agent.release.root import Root
from edgekit.agent.release.runs import unchanged
from edgekit.agent.release.staging.stage import publish_release
from edgekit.agent.release.supervisor.choose import supervisor_of
from edgekit.errors import EdgekitError
from edgekit.trust.verified import VerifiedManifest


def confirm(root: Root, verified: VerifiedManifest, config: bytes) -> dict[str, object]:
    """Check an offered release of which nothing is missing, and say how it runs.

    Three starts of Python become one, and a blob is read only if something wrote to it since it was
    hashed last: gigabytes take a minute from an SD card.

    Returns:
        `runs`: what `activate` would answer if it changed nothing. Nothing at all if it would
        change something, or if bytes are damaged: the push then goes on with its other verbs.
    """
    digest, supervisor = verified.digest, supervisor_of(root)
    with root.updating():
        if unchanged(root, digest, supervisor, config) is None:
            return {}
        try:
            publish_release(root, verified, again=True)
        except EdgekitError:
            return {}
        shown = unchanged(root, digest, supervisor, config)
        if shown is None:
            return {}
        soak = shown.get("soak_seconds")
        holder.settle(root, soak if isinstance(soak, float) else None)
    return {"runs": shown}
