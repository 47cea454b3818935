"""Exports: what travels without a network is taken whole, verified, or not at all."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    WEIGHT_TYPE,
    Descriptor,
    Manifest,
    encode,
)
from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.signing import manage, releases
from edgekit.signing.carried import open_carried, write_folder, write_tar
from edgekit.signing.manage import Trust
from edgekit.signing.signers import Signers
from edgekit.signing.verify import bring, check_blobs, verify_carried
from edgekit.store import BlobStore
from edgekit.trust.pinned import PinnedManifest, pin
from tests.harness.signing import NOW, Client, config, trust_in


def quiet(step: str, done: int, total: int) -> None:
    assert 0 <= done <= total


@dataclass
class Controller:
    """A project with a store and trust."""

    store: BlobStore
    trust: Trust

    def pack(self, version: str) -> PinnedManifest:
        """A bundle with a model of 3 MB and runtimes for two platforms, signed."""
        blobs = {
            kind: self.store.put(f"{version} {kind}".encode() + bytes(size))
            for kind, size in (("weights", 3 << 20), ("agent", 9), ("x86", 20), ("arm", 30))
        }

        def layer(kind: str, media: str, **notes: str) -> Descriptor:
            size = self.store.path(blobs[kind]).stat().st_size
            names = {"title": "org.opencontainers.image.title", "at": PLATFORM, "python": PYTHON}
            return Descriptor(media, blobs[kind], size, {names[k]: v for k, v in notes.items()})

        made = self.store.put(b"config " + version.encode())
        data = encode(
            Manifest(
                2,
                MANIFEST_TYPE,
                BUNDLE_TYPE,
                Descriptor(CONFIG_TYPE, made, len(b"config ") + len(version)),
                [
                    layer("weights", WEIGHT_TYPE, title="model.onnx.data"),
                    layer("agent", AGENT_TYPE, title="agent.tar.zst"),
                    layer("x86", RUNTIME_TYPE, at="linux/amd64", python="3.11", title="x86"),
                    layer("arm", RUNTIME_TYPE, at="linux/arm64", python="3.11", title="arm"),
                ],
            )
        )
        pinned = pin(data, self.store.put(data))
        releases.sign(self.trust, Signers(self.trust.keys), pinned, config(version), NOW)
        return pinned

    def export(self, pinned: PinnedManifest, target: Path, without: str = "") -> Path:
        layers = (pinned.manifest.config, *pinned.manifest.layers)
        blobs = {pinned.digest, *(d.digest for d in layers if not without or d.title != without)}
        published = releases.vouch(self.trust, pinned.digest, "tiny", NOW).published
        write = write_tar if target.suffix == ".tar" else write_folder
        write(target, published, self.store, blobs, quiet)
        return target


def controller(folder: Path) -> Controller:
    store = BlobStore(folder / "store")
    store.create()
    return Controller(store, trust_in(folder))


@pytest.fixture
def home(tmp_path: Path) -> Controller:
    return controller(tmp_path / "home")


@pytest.fixture
def away(tmp_path: Path) -> Controller:
    return controller(tmp_path / "away")


def take(away: Controller, path: Path, days: float = 0) -> bool:
    """Import; whether the root of trust was believed at first use."""
    with open_carried(path) as carried:
        return bring(carried, away.trust, away.store, NOW + timedelta(days=days), quiet).first


@pytest.mark.parametrize("name", ["bundle.tar", "folder"])
def test_an_export_is_taken_and_pushed_on_from_a_controller_without_keys(
    home: Controller, away: Controller, tmp_path: Path, name: str
) -> None:
    one = home.pack("1")
    assert take(away, home.export(one, tmp_path / name))
    assert check_blobs(away.store, one.manifest, quiet) > 3 << 20
    assert releases.vouch(away.trust, one.digest, "tiny", NOW).release.counter == 1
    assert Client(away.trust, tmp_path / "client").targets(one.digest)
    manage.rotate(home.trust, Signers(home.trust.keys), NOW, "targets")
    two = home.pack("2")
    later = home.export(two, tmp_path / f"later-{name}")
    assert not take(away, later)
    assert not take(away, later), "again"
    assert releases.vouch(away.trust, two.digest, "tiny", NOW).release.counter == 2
    assert not away.trust.keys.folder.exists()


def test_an_older_export_brings_its_blobs_and_no_older_metadata(
    home: Controller, away: Controller, tmp_path: Path
) -> None:
    one = home.pack("1")
    first = home.export(one, tmp_path / "1.tar")
    take(away, home.export(home.pack("2"), tmp_path / "2.tar"))
    before = (away.trust.folder.folder / "timestamp.json").read_bytes()
    take(away, first)
    assert (away.trust.folder.folder / "timestamp.json").read_bytes() == before
    assert check_blobs(away.store, one.manifest, quiet)


def test_an_export_is_the_same_bytes_and_holds_nothing_private(
    home: Controller, tmp_path: Path
) -> None:
    one = home.pack("1")
    first = home.export(one, tmp_path / "a.tar").read_bytes()
    assert home.export(one, tmp_path / "b.tar").read_bytes() == first
    assert b"PRIVATE" not in first
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert {(m.mtime, m.uid, m.uname, m.mode) for m in archive} == {(0, 0, "", 0o644)}
        names = archive.getnames()
    folder = home.export(one, tmp_path / "folder")
    assert sorted(names) == sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
    )
    assert names[0] == "metadata/1.root.json"


def test_a_folder_that_was_cut_is_completed(
    home: Controller, away: Controller, tmp_path: Path
) -> None:
    one = home.pack("1")
    folder = home.export(one, tmp_path / "usb")
    for path in list(folder.rglob("*"))[::2]:
        if path.is_file():
            path.unlink()
    home.export(one, folder)
    assert take(away, folder)


def test_a_folder_with_another_project_s_export_is_not_mixed(
    home: Controller, away: Controller, tmp_path: Path
) -> None:
    folder = home.export(home.pack("1"), tmp_path / "usb")
    before = sorted(folder.rglob("*"))
    with pytest.raises(UsageError, match="another project"):
        away.export(away.pack("2"), folder)
    assert sorted(folder.rglob("*")) == before


def test_runtimes_of_other_platforms_may_stay_away(
    home: Controller, away: Controller, tmp_path: Path
) -> None:
    one = home.pack("1")
    path = home.export(one, tmp_path / "arm.tar", without="x86")
    with open_carried(path) as carried:
        (found,) = bring(carried, away.trust, away.store, NOW, quiet).releases
    assert [layer.title for layer in found.absent] == ["x86"]


def test_another_project_s_export_is_refused(
    home: Controller, away: Controller, tmp_path: Path
) -> None:
    away.pack("mine")
    before = list((away.store.root / "blobs").rglob("*"))
    with pytest.raises(VerificationError, match="another project") as refused:
        take(away, home.export(home.pack("1"), tmp_path / "1.tar"))
    assert "--no-keys" in refused.value.next_step
    assert list((away.store.root / "blobs").rglob("*")) == before


def test_an_export_that_has_expired_is_refused(
    home: Controller, away: Controller, tmp_path: Path
) -> None:
    path = home.export(home.pack("1"), tmp_path / "1.tar")
    with pytest.raises(VerificationError, match="has expired"):
        take(away, path, days=400)


def test_what_a_revoked_key_signs_is_refused_and_what_it_signed_before_is_taken(
    home: Controller, away: Controller, tmp_path: Path
) -> None:
    before = home.export(one := home.pack("1"), tmp_path / "1.tar")
    shutil.copytree(tmp_path / "home", tmp_path / "thief")
    thief = controller(tmp_path / "thief")
    manage.rotate(home.trust, Signers(home.trust.keys), NOW, "targets")
    shutil.copytree(home.trust.folder.folder, away.trust.folder.folder)
    for number in range(4):  # newer by far than what home has
        later = thief.export(thief.pack(f"bad {number}"), tmp_path / f"bad-{number}.tar")
    with pytest.raises(VerificationError, match="targets"):
        take(away, later)
    take(away, before)
    assert check_blobs(away.store, one.manifest, quiet)


# --- damage and malice: name -> what is done to the folder of an export


def _flip(folder: Path, name: str = "") -> None:
    path = max(folder.glob("blobs/sha256/*"), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def _cut(folder: Path) -> None:
    path = max(folder.glob("blobs/sha256/*"), key=lambda p: p.stat().st_size)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


def _longer(folder: Path) -> None:
    path = max(folder.glob("blobs/sha256/*"), key=lambda p: p.stat().st_size)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"x")


def _gone(folder: Path) -> None:
    max(folder.glob("blobs/sha256/*"), key=lambda p: p.stat().st_size).unlink()


def _no_manifest(folder: Path) -> None:
    for path in folder.glob("blobs/sha256/*"):
        if path.read_bytes().startswith(b'{"annotations"') or b"schemaVersion" in path.read_bytes():
            path.unlink()


def _edited(folder: Path) -> None:
    (path,) = folder.glob("metadata/*.targets.json")
    path.write_bytes(path.read_bytes().replace(b'"counter":1', b'"counter":9'))


def _endless(folder: Path) -> None:
    with (folder / "metadata" / "timestamp.json").open("r+b") as file:
        file.truncate(1 << 40)


def _no_timestamp(folder: Path) -> None:
    (folder / "metadata" / "timestamp.json").unlink()


def _no_root(folder: Path) -> None:
    (folder / "metadata" / "1.root.json").unlink()


DAMAGE = [
    *(_flip, _cut, _longer, _gone, _no_manifest, _edited, _endless, _no_timestamp, _no_root),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_export_is_refused_and_nothing_of_it_is_believed(
    home: Controller, away: Controller, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = home.export(home.pack("1"), tmp_path / "usb")
    damage(folder)
    with open_carried(folder) as carried, pytest.raises(VerificationError):
        verify_carried(carried, away.trust, NOW, quiet)
    with pytest.raises(VerificationError) as refused:
        take(away, folder)
    assert refused.value.exit_code == 4
    assert not away.trust.folder.exists
    assert not list((away.store.root / "blobs").rglob("*.part"))


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "member",
    [
        _member("../../etc/passwd"),
        _member("/etc/passwd"),
        _member("metadata/../../x.json"),
        _member("blobs/sha256/" + "0" * 63),
        _member("metadata/9.root.json", tarfile.SYMTYPE, "/etc/passwd"),
        _member("blobs/sha256/" + "0" * 64, tarfile.LNKTYPE, "metadata/1.root.json"),
        _member("metadata/9.root.json", tarfile.CHRTYPE),
        _member("metadata/timestamp.json"),  # a second one
    ],
    ids=lambda member: f"{member.name[:24]} {member.type!r}",
)
def test_a_tar_with_anything_else_is_refused(
    home: Controller, away: Controller, tmp_path: Path, member: tarfile.TarInfo
) -> None:
    path = home.export(home.pack("1"), tmp_path / "1.tar")
    with tarfile.open(path, "a") as archive:
        archive.addfile(member, io.BytesIO(b""))
    with pytest.raises(VerificationError, match="which no export has"):
        take(away, path)
    assert not away.trust.folder.exists


def test_what_is_no_export_is_told(away: Controller, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").mkdir()
    for name, kind in (
        *(("not-there", UsageError), ("empty", UsageError), ("text", VerificationError)),
    ):
        with pytest.raises(kind):
            take(away, tmp_path / name)


def test_damage_in_the_own_store_is_found_at_export_and_no_tar_is_left(
    home: Controller, tmp_path: Path
) -> None:
    one = home.pack("1")
    _flip(home.store.root)
    for name in ("1.tar", "folder"):
        with pytest.raises(VerificationError, match="own store"):
            home.export(one, tmp_path / name)
    assert not (tmp_path / "1.tar").exists()
    assert not (tmp_path / "folder" / "metadata").exists()
    assert not list(tmp_path.glob(".*"))
    home.store.remove(one.manifest.config.digest)
    with pytest.raises(VerificationError, match="missing"):
        home.export(one, tmp_path / "1.tar")


def test_metadata_of_two_times_is_refused(
    home: Controller, away: Controller, tmp_path: Path
) -> None:
    one = home.export(home.pack("1"), tmp_path / "one")
    take(away, home.export(home.pack("2"), tmp_path / "two"))
    manage.refresh(home.trust, Signers(home.trust.keys), NOW + timedelta(days=2))
    shutil.copy(home.trust.folder.folder / "timestamp.json", one / "metadata")
    with pytest.raises(EdgekitError):
        take(away, one)
