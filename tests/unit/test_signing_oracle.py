"""Whatever is done to a project's keys and releases, python-tuf's own client reads the result.

The client (`ngclient.Updater`) starts from the first root. One that was there from the beginning
keeps its metadata and takes every step; a new one comes at the end of each step.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgekit import keyfile
from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.signing import manage, releases
from edgekit.signing.chain import check_chain, check_roots
from edgekit.signing.manage import Trust
from edgekit.signing.signers import Signers
from edgekit.trust.signed import SignedRelease
from tests.harness.signing import NOW, Client, bundle, config, sign, trust_in


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    made = trust_in(tmp_path / "project")
    assert manage.ensure(made, NOW)
    return made


def test_a_client_follows_every_step(trust: Trust, tmp_path: Path) -> None:
    always = Client(trust, tmp_path / "always")
    always.targets()
    first = bundle("1").digest
    usb = tmp_path / "usb"
    usb.mkdir()

    def step(name: str) -> None:
        for client in (always, Client(trust, tmp_path / name)):
            found = client.targets(first)
            assert found == {
                "name": "tiny", "version": "1", "counter": 1, "hardware": ["linux/amd64"],
                "rollback": 0,
            }, name  # fmt: skip

    assert sign(trust, "1") == releases.Signing(
        SignedRelease(name="tiny", version="1", counter=1, hardware=["linux/amd64"]),
        True,
        [],
    )
    step("signed")
    for role in ("targets", "root", "online", "root", "targets"):
        assert manage.rotate(trust, Signers(trust.keys), NOW, role) == []
        step(f"rotated {role} {len(trust.folder.read().roots)}")
    for role in ("targets", "root", "online"):
        assert manage.add(trust, Signers(trust.keys), NOW, role, None) == []
        step(f"added {role}")
        assert manage.threshold(trust, Signers(trust.keys), NOW, role, 2) == []
        step(f"threshold of {role}")
    assert sign(trust, "2").release.counter == 2
    step("two sign")
    for role in ("online", "root", "targets"):
        assert manage.threshold(trust, Signers(trust.keys), NOW, role, 1) == []
        gone = next(k.keyid for k in manage.report(trust, NOW).keys if k.role == role)
        assert manage.revoke(trust, Signers(trust.keys), NOW, gone[:8]) == []
        step(f"revoked of {role}")
    root = manage.export(trust, "root", usb)
    assert manage.rotate(trust, Signers(trust.keys, [root]), NOW, "root") == []
    step("rotated with an offline key")
    report = manage.report(trust, NOW)
    assert (report.waits, report.warnings) == ([], [])
    assert {key.role for key in report.keys if key.file} == {"root", "targets", "online"}


def test_a_project_of_before_signs_its_first_release_at_once(tmp_path: Path) -> None:
    before = trust_in(tmp_path / "before")
    assert sign(before, "1").waits == []
    assert Client(before, tmp_path / "client").targets(bundle("1").digest)


def test_init_again_changes_nothing_and_a_clone_without_keys_stays_as_it_is(
    trust: Trust, tmp_path: Path
) -> None:
    before = files(trust)
    assert not manage.ensure(trust, NOW)
    clone = trust_in(tmp_path / "clone")
    shutil.copytree(trust.folder.folder, clone.folder.folder)
    assert not manage.ensure(clone, NOW)
    assert files(clone) == files(trust) == before
    assert not clone.keys.folder.exists()


def files(trust: Trust) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in trust.folder.folder.iterdir()}


def test_the_same_words_are_not_signed_twice_and_a_rollback_keeps_the_counter(
    trust: Trust,
) -> None:
    sign(trust, "1")
    sign(trust, "2")
    before = files(trust)
    assert not sign(trust, "1").changed
    assert files(trust) == before
    back = sign(trust, "1", rollback=True)
    assert (back.release.counter, back.release.rollback, back.changed) == (1, 2, True)
    assert sign(trust, "3").release.counter == 3
    assert sign(trust, "1").release.rollback == 2, "a later release needs a new entry"
    assert sign(trust, "2", hardware=["jetson"]).release.hardware == ["jetson"]
    assert sign(trust, "2").release.hardware == ["jetson"]
    with pytest.raises(UsageError, match="no name of hardware"):
        sign(trust, "2", hardware=["a b"])


def test_old_snapshots_and_targets_do_not_pile_up(trust: Trust) -> None:
    for number in range(4):
        sign(trust, str(number))
    names = sorted(files(trust))
    assert names == ["1.root.json", "5.snapshot.json", "5.targets.json", "timestamp.json"]


# --- without some of the keys


def test_a_second_person_completes_what_one_began(trust: Trust, tmp_path: Path) -> None:
    ada = tmp_path / "ada.pem"
    keyfile.make(ada)
    public = keyfile.load_public(ada)
    sign(trust, "1")
    assert manage.add(trust, Signers(trust.keys), NOW, "targets", public) == []
    waits = manage.threshold(trust, Signers(trust.keys), NOW, "targets", 2)
    assert waits == [f"1 more signature for targets.json by the targets keys {public.keyid[:12]}"]
    client = Client(trust, tmp_path / "client")
    assert client.targets(bundle("1").digest), "what was published holds"
    with pytest.raises(UsageError, match="another change"):
        sign(trust, "2")
    stranger = tmp_path / "stranger.pem"
    keyfile.make(stranger)
    with pytest.raises(UsageError, match="signs nothing here"):
        manage.sign_pending(trust, Signers(trust.keys, [stranger]), NOW)
    away = trust_in(tmp_path / "away")  # her machine has trust/, her key, and no other
    shutil.copytree(trust.folder.folder, away.folder.folder)
    online = ["the key of snapshot and timestamp (online), which is not on this machine"]
    assert manage.sign_pending(away, Signers(away.keys, [ada]), NOW) == online
    shutil.copy(away.folder.folder / "pending.json", trust.folder.folder)
    assert manage.sign_pending(trust, Signers(trust.keys), NOW) == []
    assert client.targets(bundle("1").digest)
    assert "pending.json" not in files(trust)
    waits = sign(trust, "2").waits
    assert len(waits) == 1
    assert client.targets(bundle("2").digest) is None
    assert manage.sign_pending(trust, Signers(trust.keys, [ada]), NOW) == []
    assert client.targets(bundle("2").digest)


def test_no_command_but_key_sign_signs_a_change_that_came_from_elsewhere(
    trust: Trust, tmp_path: Path
) -> None:
    """Else a file that came by git would be signed by the next push."""
    ada = tmp_path / "ada.pem"
    keyfile.make(ada)
    sign(trust, "1")
    hers = trust_in(tmp_path / "hers")
    shutil.copytree(trust.folder.folder, hers.folder.folder)
    waits = manage.add(hers, Signers(hers.keys), NOW, "targets", keyfile.load_public(ada))
    assert "1 more signature for root.json" in waits[0]
    shutil.copy(hers.folder.folder / "pending.json", trust.folder.folder)
    before = files(trust)
    assert manage.report(trust, NOW).waits == waits
    assert not manage.ensure(trust, NOW)
    releases.ready(trust, NOW)
    releases.vouch(trust, bundle("1").digest, "tiny:1", NOW)
    assert releases.sign_if_held(trust, bundle("2"), config("2"), NOW) is None
    for act in (
        lambda: sign(trust, "2"),
        lambda: manage.rotate(trust, Signers(trust.keys), NOW, "root"),
    ):
        with pytest.raises(UsageError, match="another change"):
            act()
    assert files(trust) == before
    assert manage.sign_pending(trust, Signers(trust.keys), NOW) == []


def test_a_change_that_another_one_overtook_is_refused_and_can_be_dropped(
    trust: Trust, tmp_path: Path
) -> None:
    ada = tmp_path / "ada.pem"
    keyfile.make(ada)
    manage.add(trust, Signers(trust.keys), NOW, "targets", keyfile.load_public(ada))
    manage.threshold(trust, Signers(trust.keys, [ada]), NOW, "targets", 2)
    assert sign(trust, "1").waits
    late = (trust.folder.folder / "pending.json").read_bytes()
    assert manage.discard(trust)
    assert not sign(trust, "2", signers=Signers(trust.keys, [ada])).waits
    (trust.folder.folder / "pending.json").write_bytes(late)
    with pytest.raises(VerificationError, match="does not follow"):
        manage.sign_pending(trust, Signers(trust.keys, [ada]), NOW)
    assert manage.discard(trust)
    assert not manage.discard(trust)


def test_a_targets_key_alone_signs_and_the_online_key_publishes_it_later(
    trust: Trust, tmp_path: Path
) -> None:
    usb = tmp_path / "usb"
    usb.mkdir()
    online = manage.export(trust, "online", usb)
    assert sign(trust, "1").waits == []
    release = bundle("1").digest
    client = Client(trust, tmp_path / "client")
    assert client.targets(release) is None
    with pytest.raises(VerificationError, match="online") as refused:
        releases.vouch(trust, release, "tiny:1", NOW)
    assert refused.value.exit_code == 4
    shutil.copy(online, trust.keys.folder)
    vouched = releases.vouch(trust, release, "tiny:1", NOW)
    assert vouched.release.counter == 1
    assert client.targets(release)


def test_thresholds_and_last_keys_are_refused_by_name(trust: Trust) -> None:
    before = files(trust)
    keys = {key.role: key.keyid for key in manage.report(trust, NOW).keys}
    for role, count, why in (("targets", 2, "key add targets"), ("root", 0, "at least one")):
        with pytest.raises(UsageError, match=f"threshold of {role}") as refused:
            manage.threshold(trust, Signers(trust.keys), NOW, role, count)
        assert why in refused.value.next_step
    for role, keyid in keys.items():
        with pytest.raises(UsageError, match=f"only key of {role}"):
            manage.revoke(trust, Signers(trust.keys), NOW, keyid)
    with pytest.raises(UsageError, match="no role 'snapshot'"):
        manage.rotate(trust, Signers(trust.keys), NOW, "snapshot")
    with pytest.raises(UsageError, match="names no keys"):
        manage.revoke(trust, Signers(trust.keys), NOW, "ffffffffffff0")
    assert files(trust) == before
    assert len(trust.keys.held()) == 3, "no key is left behind by a refusal"


# --- time


def test_the_push_signs_snapshot_and_timestamp_once_a_day(trust: Trust) -> None:
    sign(trust, "1")
    release = bundle("1").digest
    before = files(trust)
    for hours in (1, 20, -5):
        releases.vouch(trust, release, "tiny:1", NOW + timedelta(hours=hours))
        assert files(trust) == before
    later = NOW + timedelta(days=2)
    vouched = releases.vouch(trust, release, "tiny:1", later)
    assert f'"edgekit.signed_at": {int(later.timestamp())}' in vouched.metadata.timestamp.replace(
        '":', '": '
    )
    assert files(trust) != before


def test_a_clock_that_went_back_signs_no_earlier_time(trust: Trust) -> None:
    late = NOW + timedelta(days=30)
    sign(trust, "1", now=late)
    sign(trust, "2", now=NOW)
    vouched = releases.vouch(trust, bundle("2").digest, "tiny:2", NOW)
    assert f'"edgekit.signed_at":{int(late.timestamp())}' in vouched.metadata.timestamp


def test_a_clock_in_2099_signs_nothing(trust: Trust) -> None:
    sign(trust, "1")
    before = files(trust)
    far = datetime(2099, 1, 1, tzinfo=UTC)
    for act in (
        lambda: sign(trust, "2", now=far),
        lambda: releases.vouch(trust, bundle("1").digest, "tiny:1", far),
    ):
        with pytest.raises(VerificationError, match="has expired") as refused:
            act()
        assert "clock" in refused.value.why
        assert files(trust) == before


@pytest.mark.parametrize(
    ("days", "warned"), [(300, ""), (400, "targets.json"), (1000, "root.json")]
)
def test_half_of_a_life_warns_and_signing_renews(trust: Trust, days: int, warned: str) -> None:
    sign(trust, "1")
    now = NOW + timedelta(days=days)
    if days == 1000:  # targets have expired
        with pytest.raises(VerificationError, match="has expired") as refused:
            releases.vouch(trust, bundle("1").digest, "tiny:1", now)
        assert "edgekit sign" in refused.value.next_step
        assert sign(trust, "1", now=now).changed, "the next step works"
    vouched = releases.vouch(trust, bundle("1").digest, "tiny:1", now)
    assert [text.split()[0] for text in vouched.warnings] == ([warned] if warned else [])
    if days == 400:
        assert sign(trust, "1", now=now).changed
        assert not releases.vouch(trust, bundle("1").digest, "tiny:1", now).warnings
    if days == 1000:
        manage.rotate(trust, Signers(trust.keys), now, "root")
        assert not releases.vouch(trust, bundle("1").digest, "tiny:1", now).warnings


def test_a_clock_that_was_never_set_makes_and_signs_nothing(trust: Trust, tmp_path: Path) -> None:
    sign(trust, "1")
    before = files(trust)
    unset = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    fresh = trust_in(tmp_path / "fresh")
    for act in (
        lambda: sign(trust, "2", now=unset),
        lambda: manage.rotate(trust, Signers(trust.keys), unset, "root"),
        lambda: manage.ensure(fresh, unset),
    ):
        with pytest.raises(EdgekitError, match="clock of this machine says 1970"):
            act()
    assert files(trust) == before
    assert not fresh.folder.folder.exists()


def test_pack_finds_before_its_work_what_would_refuse_to_sign(trust: Trust) -> None:
    releases.ready(trust, NOW)
    with pytest.raises(VerificationError, match=r"root\.json has expired"):
        releases.ready(trust, NOW + timedelta(days=2000))
    (path,) = trust.folder.folder.glob("*.snapshot.json")
    path.write_bytes(path.read_bytes().replace(b'"sig":"', b'"sig":"00'))
    with pytest.raises(VerificationError, match=r"snapshot\.json"):
        releases.ready(trust, NOW)


def test_counters_that_are_gone_are_not_begun_again(trust: Trust) -> None:
    sign(trust, "1")
    for name in ("2.targets.json", "2.snapshot.json", "timestamp.json"):
        (trust.folder.folder / name).unlink()
    for act in (
        lambda: sign(trust, "2"),
        lambda: releases.ready(trust, NOW),
        lambda: releases.vouch(trust, bundle("1").digest, "tiny:1", NOW),
    ):
        with pytest.raises(VerificationError, match="is missing"):
            act()
    assert list(files(trust)) == ["1.root.json"]


# --- what is edited


def test_edited_metadata_is_refused_by_its_file(trust: Trust) -> None:
    sign(trust, "1")
    good = files(trust)
    folder = trust.folder.folder
    for name in good:
        for edit in (
            lambda data: data.replace(b'"version":', b'"version":1'),
            lambda data: data.replace(b'"sig":"', b'"sig":"00'),
            lambda _: b"{",
            lambda _: b"",
            lambda data: data.replace(b'"expires":"2', b'"expires":"3'),
        ):
            changed = edit(good[name])
            if changed == good[name]:
                continue
            (folder / name).write_bytes(changed)
            with pytest.raises(VerificationError):
                releases.find(trust, bundle("1").digest, "tiny:1", NOW)
            (folder / name).write_bytes(good[name])
        (folder / name).unlink()
        with pytest.raises(VerificationError):
            releases.find(trust, bundle("1").digest, "tiny:1", NOW)
        (folder / name).write_bytes(good[name])
    assert releases.find(trust, bundle("1").digest, "tiny:1", NOW).release.counter == 1


def test_an_unsigned_release_has_a_next_step(trust: Trust, tmp_path: Path) -> None:
    for where in (trust, trust_in(tmp_path / "before")):  # a project of before trust
        with pytest.raises(VerificationError, match="tiny:1 is not signed") as refused:
            releases.vouch(where, bundle("1").digest, "tiny:1", NOW)
        assert refused.value.next_step == "`edgekit sign tiny:1`"
    assert not (tmp_path / "before" / "trust").exists()


def test_the_checks_are_those_of_a_client(trust: Trust) -> None:
    sign(trust, "1")
    now = trust.folder.read()
    assert check_roots(now.roots).version == 1
    with pytest.raises(VerificationError, match="no root"):
        check_roots([])
    sign(trust, "2")
    later = trust.folder.read()
    for mixed in (
        (later.timestamp, now.snapshot, later.listed),
        (later.timestamp, later.snapshot, now.listed),
        (now.timestamp, later.snapshot, later.listed),
    ):
        with pytest.raises(VerificationError):
            check_chain(later.roots, *mixed, NOW)
