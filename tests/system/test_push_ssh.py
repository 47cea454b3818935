"""Pushes over a real sshd to an account that has a shell, tar and python3, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.core.config import parse_agent_config
from edgekit.core.digest import Digest
from tests import tools
from tests.conftest import PACK, make_project
from tests.harness.ssh_account import FLEET, PADDING_BYTES, ROOT, Account, bare_shell

pytestmark = pytest.mark.timeout(600)


# `env` cleans the environment of the agent; the others are what a person would log in for.
@pytest.fixture(scope="module")
def account(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """The account after its first push."""
    home, device = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("device")
    (home / ".ssh").mkdir(mode=0o700)
    with (
        tools.mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker,
        tools.sshd(tmp_path_factory.mktemp("sshd")) as server,
    ):
        bare_shell(device, server)
        project = make_project(tmp_path_factory.mktemp("project"), broker.port, smollm2)
        project.environment |= {"HOME": str(home), "SSH_AUTH_SOCK": ""}
        (project.folder / "fleet.toml").write_text(FLEET.format(60))
        account = Account(project, server, home, device / ROOT, {})
        account.configure()
        try:
            account.first |= account.push()
            yield account
        finally:
            account.configure()
            project.run("stop", "box")


def test_first_contact_needs_no_more_than_a_shell_tar_and_python(account: Account) -> None:
    assert account.first["changed"] is True
    assert int(str(account.first["bytes_sent"])) > 88_000_000
    assert "Paris" in account.answer()
    assert not list(account.root.glob("blobs/sha256/*.part"))
    assert account.root.stat().st_mode & 0o077 == 0


def test_a_second_push_sends_no_blob(account: Account) -> None:
    pushed = account.push()
    assert (pushed["blobs_sent"], pushed["bytes_sent"]) == (0, 0)
    assert pushed["changed"] is False


def test_a_device_that_an_older_controller_told_every_default_is_not_restarted(
    account: Account,
) -> None:
    file, before = Root(account.root).agent_config, account.state()
    told = file.read_bytes()
    spelled_out = msgspec.toml.encode(parse_agent_config(told))
    assert len(spelled_out) > 2 * len(told)
    file.write_bytes(spelled_out)
    assert account.push()["changed"] is False
    assert file.read_bytes() == spelled_out
    file.write_bytes(told)
    after = account.state()
    assert after.pop("trust")
    assert before.pop("trust")  # it says what time it is
    assert after.pop("rollouts") != before.pop("rollouts")  # the push is on record
    del after["quality"], before["quality"]  # it is found in idle time
    assert after == before, "the same processes"


def test_an_unknown_host_key_is_refused_with_its_fingerprint(account: Account) -> None:
    account.configure(UserKnownHostsFile="/dev/null", StrictHostKeyChecking="no")
    done = account.project.run("state", "box")
    shown = subprocess.run(
        [tools.find("ssh-keygen"), "-lf", str(account.server.host_key)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[1]
    assert done.returncode == 4
    assert "is unknown" in done.stderr
    assert shown in done.stderr
    assert f"ssh -p {account.server.port} 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
    account.configure()


def other_key(folder: Path) -> Path:
    key = folder / "other"
    subprocess.run([tools.find("ssh-keygen"), "-qt", "ed25519", "-N", "", "-f", key], check=True)
    return key


def test_a_changed_host_key_is_refused(account: Account, tmp_path: Path) -> None:
    kind, key, *_ = other_key(tmp_path).with_suffix(".pub").read_text().split()
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{account.server.port} {kind} {key}\n")
    account.configure(UserKnownHostsFile=str(known_hosts))
    done = account.project.run("push", "box")
    assert done.returncode == 4
    assert "has changed" in done.stderr
    assert f"ssh-keygen -R '[127.0.0.1]:{account.server.port}'" in done.stderr
    assert "Traceback" not in done.stderr
    account.configure()


def test_known_hosts_of_the_home_is_used_by_default(account: Account) -> None:
    config = account.home / ".ssh" / "config"
    config.write_text("".join(x for x in config.open() if "UserKnownHostsFile" not in x))
    assert account.project.run("state", "box").returncode == 4
    shutil.copy(account.server.known_hosts, account.home / ".ssh" / "known_hosts")
    assert account.project.run("state", "box").returncode == 0
    (account.home / ".ssh" / "known_hosts").unlink()
    account.configure()


@pytest.mark.parametrize("which", ["wrong", "none", "missing"])
def test_a_key_that_the_account_does_not_know_is_a_clear_error(
    account: Account, tmp_path: Path, which: str
) -> None:
    files = {"wrong": str(other_key(tmp_path)), "none": "none", "missing": str(tmp_path / "no")}
    account.configure(IdentityFile=files[which])
    done = account.project.run("state", "box")
    assert done.returncode == 1
    assert "does not let us in" in done.stderr
    assert "authentication" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    account.configure()


def test_a_port_where_nobody_listens_is_unreachable(account: Account) -> None:
    account.configure(Port=str(tools.free_port()))
    done = account.project.run("state", "box")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
    account.configure()


def test_a_port_that_speaks_another_protocol_is_unreachable(account: Account) -> None:
    account.configure(Port=str(account.project.port))  # the MQTT broker
    done = account.project.run("state", "box")
    assert done.returncode == 1
    assert "does not speak SSH" in done.stderr
    assert "Traceback" not in done.stderr
    account.configure()


def test_a_jump_host_is_used_and_its_key_is_checked(account: Account, tmp_path: Path) -> None:
    server = account.server
    account.configure(ProxyJump="jump-alias")
    config = account.home / ".ssh" / "config"
    through = (
        f"Host jump-alias\n  HostName localhost\n  Port {server.port}\n"
        f"  IdentityFile {server.identity}\n  UserKnownHostsFile {tmp_path / 'known_hosts'}\n"
    )
    config.write_text(config.read_text() + through)
    done = account.project.run("state", "box")
    assert done.returncode == 4
    assert "localhost" in done.stderr
    known = server.known_hosts.read_text().replace("127.0.0.1", "localhost")
    (tmp_path / "known_hosts").write_text(known)
    assert account.state()["answering"] is True
    account.configure()


def flip(path: Path, at: int) -> None:
    """Damage one byte of a read-only blob."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0xFF]))
    path.chmod(0o444)


def pack(account: Account, folder: Path, smollm2: Path, **files: bytes) -> str:
    """Pack the model with files added or replaced; the digest."""
    model = folder / "model"
    if not model.exists():
        shutil.copytree(smollm2, model)
        for record in ("build.json", "provenance.json"):  # of a model that is about to change
            (model / record).unlink()
    for name, data in files.items():
        (model / name.replace("__", ".")).write_bytes(data)
    account.project.edgekit(
        *("pack", str(model), "--name", "other", "--context", "1024"),
        *("--accept-ungated", "--no-golden", *PACK),
    )
    return str(json.loads(account.project.edgekit("inspect", "other", "--json"))["digest"])


def test_a_push_killed_half_way_leaves_the_old_release_and_the_next_one_goes_on(
    account: Account, smollm2: Path, tmp_path: Path
) -> None:
    before = account.state()["current"]
    release = pack(
        *(account, tmp_path, smollm2),
        small__data=os.urandom(1 << 20),
        padding__data=os.urandom(PADDING_BYTES),
    )
    blob, name, size = account.blob("padding.data")
    part = blob.with_name(f"{name}.part")
    push = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "push", "box"],
        cwd=account.project.folder,
        env=account.project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not part.exists() or part.stat().st_size < size // 2:
        assert push.poll() is None, "it ended before half of the transfer"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(push.pid, signal.SIGKILL)
    push.wait(10)
    assert "Paris" in account.answer()
    state = account.state()
    assert (state["current"], state["answering"]) == (before, True)
    small, _, small_size = account.blob("small.data")
    assert small.stat().st_size == small_size
    have = part.stat().st_size
    assert size // 2 <= have < size
    pushed = account.push()
    assert pushed["blobs_sent"] == 1
    assert 0 < pushed["bytes_sent"] <= size - have
    assert account.state()["current"] == release
    assert "Paris" in account.answer()


def test_damage_on_the_device_is_found_by_hash_and_repaired_by_the_push(
    account: Account, smollm2: Path, tmp_path: Path
) -> None:
    """Three kinds at once: a part, a blob before staging, and a blob of a staged release."""
    pack(account, tmp_path, smollm2, one__data=os.urandom(1 << 20), two__data=os.urandom(1 << 20))
    one, name, size = account.blob("one.data")
    part = one.with_name(f"{name}.part")
    part.write_bytes(bytes(size // 2))  # what an earlier transfer left is not what it should be
    two, name, _ = account.blob("two.data")
    shutil.copy(account.project.store / "blobs" / "sha256" / name, two)
    flip(two, 1000)
    pushed = account.push()
    assert Digest.of(one.read_bytes()).hex == one.name
    assert Digest.of(two.read_bytes()).hex == two.name
    assert pushed["bytes_sent"] <= 3 * size
    account.project.edgekit("sign", "smollm2:1", "--rollback")
    account.project.edgekit("push", "box", "--bundle", "smollm2:1")
    flip(two, 2000)
    assert "Paris" in account.answer()
    pushed = account.push()
    assert (pushed["blobs_sent"], pushed["bytes_sent"]) == (1, size)
    assert Digest.of(two.read_bytes()).hex == two.name
    linked = account.root / "current" / "model" / "two.data"
    assert linked.samefile(two)
    assert "Paris" in account.answer()


def test_a_blob_damaged_in_the_own_store_is_refused_and_the_old_release_answers(
    account: Account, smollm2: Path, tmp_path: Path
) -> None:
    before = account.state()["current"]
    pack(account, tmp_path, smollm2, extra__data=os.urandom(1 << 20))
    blob, name, _ = account.blob("extra.data")
    own = account.project.store / "blobs" / "sha256" / name
    flip(own, 500)
    done = account.project.run("push", "box")
    assert done.returncode == 4
    assert "in this project's own store" in done.stderr
    assert "pack the model again" in done.stderr
    assert not blob.exists()
    assert account.state()["current"] == before
    assert "Paris" in account.answer()
    pack(account, tmp_path, smollm2)
    assert Digest.of(own.read_bytes()).hex == name


def test_of_two_pushes_at_once_the_second_is_told(
    account: Account, smollm2: Path, tmp_path: Path
) -> None:
    pack(account, tmp_path, smollm2, padding__data=os.urandom(PADDING_BYTES))
    blob, name, _ = account.blob("padding.data")
    push = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "push", "box"],
        cwd=account.project.folder,
        env=account.project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not blob.with_name(f"{name}.part").exists():
        assert push.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(push.pid, signal.SIGSTOP)  # half of a transfer takes a while on a real link
    try:
        second = account.project.run("push", "box")
    finally:
        os.kill(push.pid, signal.SIGCONT)
    assert second.returncode == 1
    assert "another push to this device is at work" in second.stderr
    assert push.wait(120) == 0
    assert "Paris" in account.answer()


def test_a_configuration_that_cannot_work_goes_back_to_the_old_one(account: Account) -> None:
    before = account.state()
    fleet = account.project.folder / "fleet.toml"
    fleet.write_text(FLEET.format(5))
    port = account.project.port
    account.project.port = tools.free_port()
    done = account.project.run("push", "box")
    account.project.port = port
    fleet.write_text(FLEET.format(60))
    assert done.returncode == 1
    assert "its new configuration is not used" in done.stderr
    assert "answers again, as before" in done.stderr
    after = account.state()
    assert (after["current"], after["config"]) == (before["current"], before["config"])
    assert after["previous"] == before["previous"]
    assert "Paris" in account.answer()


def test_a_model_that_does_not_load_goes_back_and_the_push_says_why(
    account: Account, smollm2: Path, tmp_path: Path
) -> None:
    before = account.state()["current"]
    bad = pack(account, tmp_path, smollm2, model__onnx=b"this is no graph")
    done = account.project.run("push", "box")  # and does not wait for the end of the trial
    assert done.returncode == 1
    assert f"release {bad[7:19]} failed its trial and it is not used" in done.stderr
    assert "the model cannot be loaded" in done.stderr
    assert "Paris" in account.answer()
    state = account.state()
    assert (state["current"], state["answering"]) == (before, True)
    row = next(line for line in account.shown_state() if line.startswith(f"release    {bad[7:19]}"))
    assert "bad  the agent ended" in row
