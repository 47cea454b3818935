"""Accounts on a real sshd without systemd and cron: they are enrolled, and told the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.enroll import drive
from edgekit.fleet.enroll.drive import EnrollRequest
from edgekit.fleet.enroll.hands import Hands
from edgekit.fleet.enroll.values import Step
from edgekit.fleet.link.remote import SshRemote
from tests.harness.ssh_account import Login, logged_in

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Login]:
    """It is on a machine that systemd did not boot."""
    with logged_in(tmp_path) as login:
        login.runs('PATH=/usr/bin:/bin; exec sh -c "$SSH_ORIGINAL_COMMAND"')
        yield login


def files_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs on this machine")
def test_without_systemd_an_account_is_enrolled_as_its_own(account: Login) -> None:
    asked = EnrollRequest("box", "python3", "", {"edgekit-agent.service": ""}, {})
    before = files_in(account.home)
    with closing(SshRemote("device")) as remote:
        done = drive.enroll(remote, asked, lambda _: None)
        assert done.starts in ("detached", "cron")
        assert not done.system
        assert "no user unit: " in done.notes[0]
        mark = Path(done.root) / "etc" / "enrolled.json"
        assert json.loads(mark.read_bytes())["device"] == "box"
        assert drive.enroll(remote, asked, lambda _: None).changed == []
        asked.system = True
        with pytest.raises(UsageError, match="systemd does not run there"):
            drive.enroll(remote, asked, lambda _: None)
        asked.system = None
        whole = files_in(account.home)
        with pytest.raises(UsageError, match="the account at the address of other is that of box"):
            drive.remove(remote, replace(asked, device="other"), None)
        assert files_in(account.home) == whole
        drive.remove(remote, asked, None)
    assert files_in(account.home) == before


def test_a_step_that_fails_says_which_and_the_next_enrolment_goes_on(account: Login) -> None:
    record = account.home / "etc" / "enroll.json"
    steps = (
        Step("record", "the record", {"told": {"device": "box"}}),
        Step("folder", "a folder", {"path": str(account.home / "new"), "mode": 0o700}),
        Step("file", "a file", {"path": str(account.home), "mode": 0o600, "content": ""}),
    )
    with closing(SshRemote("device")) as remote:
        hands = Hands(remote, "/usr/bin/python3")
        for changed in (True, False):
            done = hands.perform(str(record), steps)
            assert (done.failed, [one.changed for one in done.done]) == (2, [changed] * 2)
            assert "is no file" in done.why
        ends = (Step("no_record", "all of it", {"folders": []}),)
        assert hands.perform(str(record), ends).failed is None
    assert files_in(account.home) == []


def test_a_python_that_does_not_run_is_named(account: Login) -> None:
    with (
        closing(SshRemote("device")) as remote,
        pytest.raises(EdgekitError, match="does not run on the device"),
    ):
        drive.enroll(remote, EnrollRequest("box", "python9", "", {}, {}), lambda _: None)
