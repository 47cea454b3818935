"""`edgekit enroll` and `edgekit remove`, cut short: each call in one process, some for real."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError
from edgekit.fleet.enroll import drive
from edgekit.fleet.enroll.drive import EnrollRequest
from edgekit.fleet.link.remote import SshRemote
from tests import tools
from tests.crash import enrolment
from tests.harness.ssh_account import logged_in

pytestmark = pytest.mark.timeout(300)
PLAIN = 'PATH=/usr/bin:/bin; exec sh -c "$SSH_ORIGINAL_COMMAND"'
KILLS = (
    ("enroll", "rename", 2),
    ("enroll", "rename", 4),
    ("remove", "unlink", 2),
    ("remove", "rmdir", 2),
)


def test_no_fault_at_any_call_leaves_a_machine_half_enrolled() -> None:
    made = enrolment.run_all()
    print(f"{len(made.keys)} cases")
    assert not made.violations, "\n".join(f"{k}: {v}" for k, v in made.violations.items())
    assert len(made.keys) >= 2000


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs on this machine")
@pytest.mark.parametrize(("act", "call", "when"), KILLS)
def test_a_real_enrolment_that_is_killed_can_be_gone_on_with_and_taken_back(
    act: str, call: str, when: int, tmp_path: Path
) -> None:
    log = tmp_path / "strace"
    inject = f"-e trace={call} -e inject={call}:signal=SIGKILL:when={when}"
    killed = f'{tools.find("strace")} -f -qq -o {log} {inject} sh -c "$SSH_ORIGINAL_COMMAND"'
    asked = EnrollRequest("box", "python3", "", {"edgekit-agent.service": ""}, {})
    acts: dict[str, Callable[[SshRemote], object]] = {
        "enroll": lambda remote: drive.enroll(remote, asked, lambda _: None),
        "remove": lambda remote: drive.remove(remote, asked, None),
    }
    with logged_in(tmp_path) as login:

        def after(name: str, script: str) -> list[Path]:
            login.runs(script)
            with closing(SshRemote("device")) as remote:  # a session of its own
                acts[name](remote)
            return sorted(login.home.rglob("*"))

        before = sorted(login.home.rglob("*"))
        enrolled = after("enroll", PLAIN)
        if act == "enroll":
            assert after("remove", PLAIN) == before
        with pytest.raises(EdgekitError):
            after(act, f"PATH=/usr/bin:/bin; exec {killed}")
        assert "SIGKILL" in log.read_text()
        assert after("enroll", PLAIN) == enrolled
        assert after("remove", PLAIN) == before
