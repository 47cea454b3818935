"""A kill at any write leaves metadata that the next command completes; two at once lose nothing.

A child process does the work and dies at its n-th change of the file system, without any cleaning
up. The client that had taken the metadata before then takes what the next command leaves.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError
from edgekit.signing import folder as trust_folder
from edgekit.signing import manage
from edgekit.signing.manage import Trust
from edgekit.signing.roles import ROLES, threshold_of
from edgekit.signing.signers import Signers
from tests.harness.signing import NOW, Client, bundle, sign, trust_in

LAST = 60  # more changes of the file system than any of the commands makes


def _begin(trust: Trust) -> None:
    manage.ensure(trust, NOW)


def _rotate(role: str) -> Callable[[Trust], object]:
    return lambda trust: manage.rotate(trust, Signers(trust.keys), NOW, role)


ACTS: dict[str, Callable[[Trust], object]] = {
    "init": _begin,
    "sign": lambda trust: sign(trust, "2"),
    "rotate root": _rotate("root"),
    "rotate targets": _rotate("targets"),
    "rotate online": _rotate("online"),
    "add": lambda trust: manage.add(trust, Signers(trust.keys), NOW, "targets", None),
}


def die_at(count: int) -> None:
    """Make this process end in place of its n-th change of the file system."""
    left = [count]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return real(*arguments, **options)

        return run

    for name in ("replace", "unlink", "rename"):
        setattr(Path, name, counted(getattr(Path, name)))
    os.link = counted(os.link)  # type: ignore[assignment]  # in a process that soon ends


def killed(act: Callable[[], object], count: int) -> bool:
    """Do something in a child that dies at its n-th change; whether it did die."""
    pid = os.fork()
    if pid == 0:
        try:
            die_at(count)
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9), "it failed by itself"
    return code == 9


@pytest.mark.parametrize("name", ACTS)
def test_a_kill_at_every_write_is_completed_by_the_next_command(tmp_path: Path, name: str) -> None:
    begun = tmp_path / "begun"
    if name != "init":
        manage.ensure(trust_in(begun), NOW)
        sign(trust_in(begun), "1")
        Client(trust_in(begun), tmp_path / "client").targets()
    begun.mkdir(exist_ok=True)
    deaths = 0
    for count in range(1, LAST):
        project, home = tmp_path / f"at-{count}", tmp_path / f"client-{count}"
        shutil.copytree(begun, project)
        trust = trust_in(project)
        if not killed(lambda trust=trust: ACTS[name](trust), count):  # type: ignore[misc]  # bound
            break
        deaths += 1
        manage.ensure(trust, NOW)
        report = manage.report(trust, NOW)
        assert report.waits == []
        assert not (trust.folder.folder / "pending.json").exists()
        held = trust.keys.held()
        root = trust.folder.read().root
        for role in ROLES:
            here = sum(key.role == role and key.keyid in held for key in report.keys)
            assert here >= threshold_of(root, role), "a key is lost"
        ACTS[name](trust)  # the retry
        sign(trust, "1")
        sign(trust, "3")
        if name == "init":
            client = Client(trust, home)
        else:
            shutil.copytree(tmp_path / "client", home)
            client = Client(trust, home, begun=True)
        assert client.targets(bundle("1").digest)
        assert client.targets(bundle("3").digest)
        left = [path.name for path in project.rglob(".*.tmp")]
        assert left == [], "nothing is left lying about"
        shutil.rmtree(project)
    assert deaths > 6
    assert count < LAST - 1, "every write was reached"


SIGN = """
import sys
from pathlib import Path
from tests.harness.signing import sign, trust_in
for number in range(5):
    print(sign(trust_in(Path(sys.argv[1])), sys.argv[2] + str(number)).release.counter)
"""


def test_processes_that_sign_at_once_lose_no_counter(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SIGN, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in "abc"  # of them one makes the keys
    ]
    counters = [int(n) for process in running for n in process.communicate(timeout=120)[0].split()]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(counters) == list(range(1, 16))
    client = Client(trust_in(tmp_path), tmp_path / "client")
    for name in "abc":
        assert client.targets(bundle(f"{name}4").digest)


def test_a_lock_that_is_held_for_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_folder, "LOCK_SECONDS", 0.1)
    trust, other = trust_in(tmp_path), trust_in(tmp_path)
    with (
        other.folder.locked(),
        pytest.raises(EdgekitError, match="another edgekit is signing"),
        trust.folder.locked(),
    ):
        pass


def test_ctrl_c_while_a_program_signs_changes_nothing(tmp_path: Path) -> None:
    trust = trust_in(tmp_path)
    manage.ensure(trust, NOW)
    away = tmp_path / "away"
    away.mkdir()
    manage.export(trust, "targets", away)
    before = {path: path.read_bytes() for path in trust.folder.folder.iterdir()}
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\nkill -INT {os.getpid()}\nsleep 5\n")
    slow.chmod(0o700)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            sign(trust, "1", signers=Signers(trust.keys, command=str(slow)))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert {path: path.read_bytes() for path in trust.folder.folder.iterdir()} == before
