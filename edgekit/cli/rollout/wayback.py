"""What has to be settled before a rollout can be taken back."""

from __future__ import annotations

from edgekit.cli import project, render
from edgekit.cli.release.trust import present, trust_of
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, UnreachableError, VerificationError
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.signing.releases import lookup, vouch


def prepare_way_back(here: project.Project, rollout: Rollout) -> None:
    """See to it that devices that pull may go back to what they ran before a rollout.

    Raises:
        VerificationError: the metadata does not permit it.
        EdgekitError: the registry does not take the metadata; where it cannot be reached, only if
            the rollout has switched no device that does not need it.
    """
    from edgekit.cli.release.publish import upload_metadata  # noqa: PLC0415  only pulls need it

    fleet = here.fleet()
    wanted = {
        device.before
        for name, device in rollout.devices.items()
        if name in fleet.devices and fleet.devices[name].pulls and device.switched
    }
    others = any(
        device.switched and name in fleet.devices and not fleet.devices[name].pulls
        for name, device in rollout.devices.items()
    )
    ours = rollout.plan.release
    if may_join(here, rollout) and lookup(trust_of(here.folder), ours):
        # What they ran is known later; the metadata has the way back to it.
        try:
            vouched = vouch(trust_of(here.folder), ours, ours.short, present())
            upload_metadata(here, fleet, vouched.metadata)
        except EdgekitError as error:  # no reason to leave the others where they are
            render.warn(f"devices that joined late may find no way back: {error}")
    for release in wanted:
        if release is not None and (why := may_go_back(here, release)):
            raise VerificationError(
                "devices that pull go back only where that is signed",
                why,
                f"`edgekit sign {release.short} --rollback`, then `edgekit rollback` again",
            )
        if release is not None:
            vouched = vouch(trust_of(here.folder), release, release.short, present())
            try:
                upload_metadata(here, fleet, vouched.metadata)
            except UnreachableError as error:
                if not others:
                    raise
                render.warn(f"devices that pull may find no way back yet: {error}")


def may_join(here: project.Project, rollout: Rollout) -> bool:
    """Whether devices were told to join after a rollout was done, and may have by now."""
    if rollout.phase != RolloutPhase.DONE or rollout.plan.terms.stage_only:
        return False
    devices = here.fleet().devices
    return any(
        device.state == DeviceState.AWAY and name in devices and devices[name].pulls
        for name, device in rollout.devices.items()
    )


def gone_of(here: project.Project, rollout: Rollout) -> list[str]:
    """The devices that a rollback would take back, and that fleet.toml does not have any more."""
    devices = here.fleet().devices
    found = rollout.devices.items()
    return [name for name, device in found if device.switched and name not in devices]


def may_go_back(here: project.Project, release: Digest) -> str:
    """Why a device may not go back to a release by its metadata; empty: it may."""
    signed = lookup(trust_of(here.folder), release)
    if signed is None:
        return f"{release.short} is not signed any more"
    return "" if signed.rollback else f"{signed.name}:{signed.version} has no rollback entry"
