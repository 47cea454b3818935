"""What changes a device asks it for its name: an address may lead to another one by now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.cli.device.fleet import call
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, UsageError

RELEASE = Digest.of(b"release")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project whose device `pi-1` is at a ROOT that has the name of `pi-2`."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "current").symlink_to(f"releases/{RELEASE.hex}")
    (root / "etc" / "agent.toml").write_text('device = "pi-2"\n')
    lines = ('[devices.pi-1]\naddress = "local:x"', f"root = {json.dumps(str(root))}")
    (tmp_path / "edgekit.toml").write_text("")
    (tmp_path / "fleet.toml").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("verb", ["stop", "start", "rollback", "gc", "scrub", "tune"])
def test_a_verb_that_changes_a_device_leaves_another_one_alone(folder: Path, verb: str) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(UsageError, match="the address of pi-1 leads to pi-2") as caught:
        call(folder, "pi-1", verb)
    assert "`edgekit push pi-1` gives it that name" in caught.value.next_step
    assert sorted(folder.rglob("*")) == before


def test_a_device_of_another_name_can_be_looked_at(folder: Path) -> None:
    with pytest.raises(EdgekitError, match="`agent state` ended"):  # there is no agent
        call(folder, "pi-1", "state")
