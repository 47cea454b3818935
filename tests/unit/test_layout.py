"""ROOT's layout is said once: for the agent, for a push, and for what runs before an agent."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from edgekit import data
from edgekit.agent.release.door import probe
from edgekit.agent.release.root import Root
from edgekit.bundle.tar import plain_tar
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    SETTINGS,
    Descriptor,
    Manifest,
    encode,
)
from edgekit.errors import VerificationError
from edgekit.fleet import commands, receive
from edgekit.fleet.commands import Tree
from edgekit.fleet.facts import DeviceFacts, parse_facts

DIGEST = Digest.of(b"a release")
HEX = DIGEST.hex

# What is on disk in every fleet; a path that changes leaves devices behind.
PATHS = {
    "agent_config": "etc/agent.toml",
    "previous_config": "etc/agent.toml.previous",
    "good_config": "etc/agent.toml.good",
    "current": "current",
    "previous": "previous",
    "trees": "trees",
    "ready_file": "run/ready.json",
    "journal": "journal.db",
    "tuning_file": "tuning.json",
    "pid_file": "run/supervisor.pid",
    "lease_file": "run/push.lease",
    "log_file": "log/agent.log",
}


def facts(root: PurePosixPath, **changed: object) -> DeviceFacts:
    told: dict[str, object] = {
        "root": str(root),
        "machine": "x86_64",
        "python": "3.11",
        "executable": "/bin/python3",
        "glibc": "2.36",
        "ram_bytes": 1,
        "writable": True,
        "current": None,
        "bootstrap": "",
    }
    return parse_facts(msgspec.json.encode(told | changed, enc_hook=str))


def environment_of(argv: commands.Argv) -> dict[str, str]:
    """What `env -i` is told."""
    assert argv[:2] == ("env", "-i")
    return dict(word.split("=", 1) for word in argv[2 : argv.index("/bin/python3")])


def test_the_paths_of_a_device_stay_where_they_are() -> None:
    root = Root(Path("/root"))
    found = {name: str(getattr(root, name).relative_to("/root")) for name in PATHS}
    assert found == PATHS
    assert str(root.release(DIGEST)) == f"/root/releases/{HEX}"
    assert str(root.store.path(DIGEST)) == f"/root/blobs/sha256/{HEX}"
    assert str(root.store.part_path(DIGEST)) == f"/root/blobs/sha256/{HEX}.part"
    assert str(layout.tree(DIGEST)) == f"trees/{HEX}"
    assert (str(layout.RELEASES_DB), str(layout.UPDATE_LOCK)) == ("state.db", "run/update.lock")


@pytest.mark.parametrize("tree", Tree)
def test_a_verb_runs_in_exactly_the_environment_of_the_layout(tree: Tree) -> None:
    root = PurePosixPath("/home/pi/my root")
    trees = {
        Tree.RELEASE: layout.release_trees(root / layout.CURRENT),
        Tree.BOOTSTRAP: layout.bootstrap_trees(root),
    }
    argv = commands.agent(facts(root), tree, "stage", DIGEST)
    assert environment_of(argv) == layout.environment(root, trees[tree])
    last = ("-S", "-P", "-m", "edgekit.agent", "stage", "--root", str(root), DIGEST)
    assert argv[argv.index("/bin/python3") + 1 :] == last


def test_a_verb_and_the_agent_that_it_starts_have_one_environment() -> None:
    root = PurePosixPath("/srv/edgekit")
    argv = commands.agent(facts(root), Tree.RELEASE, "activate")
    assert Root(Path(root)).environment(Path(root) / layout.CURRENT) == environment_of(argv)


def test_which_agent_runs_a_verb_is_an_argument_and_not_a_fact() -> None:
    root = PurePosixPath("/srv/edgekit")
    for told in (facts(root), facts(root, current=DIGEST, bootstrap="bootstrap-1")):
        paths = {
            tree: environment_of(commands.agent(told, tree, "state"))["PYTHONPATH"] for tree in Tree
        }
        assert paths == {
            Tree.RELEASE: "/srv/edgekit/current/agent:/srv/edgekit/current/runtime",
            Tree.BOOTSTRAP: "/srv/edgekit/bootstrap",
        }


def test_a_part_is_written_where_the_device_adopts_it(tmp_path: Path) -> None:
    told = facts(PurePosixPath(tmp_path))
    assert commands.part_path(told, DIGEST) == str(Root(tmp_path).store.part_path(DIGEST))


def test_the_probe_finds_what_the_layout_says(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    root.create()
    blob = Descriptor(CONFIG_TYPE, DIGEST, 1)
    agent = Descriptor(AGENT_TYPE, DIGEST, 1, {SETTINGS: "device,threads"})
    text = encode(Manifest(2, MANIFEST_TYPE, BUNDLE_TYPE, blob, [agent], {"name": "ü"}))
    assert found(root).current is None
    assert found(root).current_manifest is None
    digest = root.store.put(text)
    root.current.symlink_to(layout.release(digest))
    (root.path / layout.BOOTSTRAP).symlink_to("bootstrap-abc")
    root.agent_config.write_text('device = "ü"\n', "utf-8")
    told = found(root)
    assert (told.root, told.current, told.bootstrap) == (str(root.path), digest, "bootstrap-abc")
    assert told.config == 'device = "ü"\n'
    assert told.current_manifest is not None
    assert told.current_manifest.settings == frozenset({"device", "threads"})
    root.store.path(digest).chmod(0o644)
    root.store.path(digest).write_bytes(text + b" ")
    assert found(root).current_manifest is None, "other bytes than the link says"


def found(root: Root) -> DeviceFacts:
    return parse_facts(msgspec.json.encode(probe.probe(str(root.path))))


def test_a_current_that_names_no_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("releases/mine")
    with pytest.raises(VerificationError, match="mine"):
        found(Root(tmp_path))


def test_a_first_contact_puts_the_agent_where_the_layout_says(tmp_path: Path) -> None:
    tar = plain_tar([("edgekit/__init__.py", b"here")])
    name = hashlib.sha256(tar).hexdigest()[:12]
    root = tmp_path / "root"
    part = Path(commands.bootstrap_part(facts(PurePosixPath(root)), name))
    mask = os.umask(0o077)
    try:
        assert receive.receive(root, name, len(tar)) == (0, False)
        part.write_bytes(tar[:-1])
        assert receive.receive(root, name, len(tar)) == (len(tar) - 1, False), "to be resumed"
        part.write_bytes(bytes(len(tar)))
        assert receive.receive(root, name, len(tar)) == (0, False), "damaged: from the start"
        part.write_bytes(tar)
        assert receive.receive(root, name, len(tar)) == (len(tar), True)
    finally:
        os.umask(mask)
    (tree,) = layout.bootstrap_trees(root)
    assert Path(tree, "edgekit", "__init__.py").read_bytes() == b"here"
    assert not part.exists()


def test_the_systemd_unit_has_the_paths_of_the_layout() -> None:
    unit = data.path("deploy/systemd/edgekit-agent.service").read_text("utf-8")
    root = PurePosixPath("/var/lib/edgekit")
    wanted = layout.environment(root, layout.release_trees(root / layout.CURRENT))
    told = dict(
        line.removeprefix("Environment=").split("=", 1)
        for line in unit.splitlines()
        if line.startswith("Environment=")
    )
    assert told.keys() >= {"PYTHONPATH", "PYTHONPYCACHEPREFIX"}
    assert told == {name: wanted[name] for name in told}
