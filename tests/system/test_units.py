"""The units under a real systemd: a push through the door, reboots, a frozen agent, attacks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import make_project, make_project_alone
from tests.harness.systemd_device import systemd_device
from tests.harness.units import PUSHER, QUESTION, ROOT, Installed, installed
from tests.show.reboots import during_staging, during_trial
from tests.tools import eventually

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def box(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The device after its first push."""
    project = make_project(tmp_path_factory.mktemp("project") / "p", 1883, smollm2)
    with (
        systemd_device(tmp_path_factory.mktemp("device"), memory="3g") as device,
        installed(device, project, tmp_path_factory.mktemp("site")) as box,
    ):
        box.project.edgekit("push", "box")
        yield box


def test_a_push_through_the_door_makes_the_unit_active_and_ready(box: Installed) -> None:
    assert "Paris" in box.answer()
    eventually(box.ready, what="systemd has heard READY")  # on a busy machine the answer is faster
    assert (box.show("ActiveState"), box.show("SubState")) == ("active", "running")
    assert box.show("StatusText").startswith("ready")
    assert int(box.show("WatchdogTimestampMonotonic")) > 0
    state = box.state()
    assert state["answering"] is True
    assert (state["trust"]["how"], state["trust"]["root"]) == ("enrolled", 1)
    assert state["trust"]["ssh_key"] == "the updater's verbs"
    root, ours = f"{ROOT}/etc/trust/root.json", box.project.folder / "trust" / "1.root.json"
    assert box.device.exec("cat", root) == ours.read_text()
    assert box.device.exec("stat", "-c", "%U %a", root).split() == ["edgekit", "600"]
    assert state["supervisor_pid"] == int(box.show("MainPID"))


def test_a_push_that_changes_something_stays_in_the_unit(box: Installed, smollm2: Path) -> None:
    main, since = box.show("MainPID"), box.show("ActiveEnterTimestampMonotonic")
    agent, old = box.agent(), box.current()
    new = box.pack("another", smollm2)
    box.project.edgekit("push", "box", "--bundle", "another")
    box.answers(new)
    assert box.agent() != agent
    unchanged = (box.show("MainPID"), box.show("ActiveEnterTimestampMonotonic"))
    assert unchanged == (main, since), "the unit was active all the time"
    line = f"grep -c edgekit-agent.service /proc/{box.agent()}/cgroup"
    assert int(box.device.exec("sh", "-c", line)) > 0
    box.project.edgekit("rollback", "box")
    box.answers(old)
    assert (box.show("MainPID"), box.show("ActiveEnterTimestampMonotonic")) == (main, since)


def test_a_stopped_device_stays_down_over_a_reboot(box: Installed) -> None:
    release = box.current()
    box.project.edgekit("stop", "box")
    eventually(lambda: box.show("ActiveState") == "inactive", what="the unit is down")
    box.device.reboot()
    time.sleep(2)
    assert box.show("ActiveState") == "inactive"
    assert "by an operator since" in box.project.edgekit("state", "box")
    box.project.edgekit("start", "box")
    box.answers(release)
    box.device.cut_power()
    box.answers(release)


def test_a_frozen_agent_is_restarted_by_the_watchdog(box: Installed) -> None:
    device, release = box.device, box.current()
    drop_in = "/run/systemd/system/edgekit-agent.service.d/soon.conf"
    device.write(drop_in, b"[Service]\nWatchdogSec=4\nRestartSec=1\n")
    device.exec("systemctl", "daemon-reload")
    device.exec("systemctl", "restart", "edgekit-agent")
    try:
        box.answers(release)
        main = box.show("MainPID")
        device.exec("kill", "-STOP", str(box.agent()))
        eventually(lambda: box.show("NRestarts") == "1", 60, "the watchdog restarts it")
        box.answers(release)
        assert box.show("MainPID") != main
    finally:
        device.exec("rm", drop_in)
        device.exec("systemctl", "daemon-reload")


def test_a_reboot_in_a_trial_goes_back_and_one_in_staging_changes_nothing(
    box: Installed, smollm2: Path
) -> None:
    old = box.current()
    new = box.pack("rebooted", smollm2)
    during_staging(box, "rebooted", new)
    box.answers(old)
    during_trial(box, "rebooted", new)
    box.answers(old)
    rows = {row["digest"]: row for row in box.state()["releases"]}
    assert rows[f"sha256:{new}"]["state"] == "bad"
    assert "went down during the trial" in rows[f"sha256:{new}"]["reason"]
    box.project.edgekit("push", "box", "--bundle", "rebooted")
    box.answers(new)


def test_the_key_of_the_push_account_opens_nothing_else(box: Installed, tmp_path: Path) -> None:
    device, release, agent = box.device, box.current(), box.agent()
    for command in ("id", "sh", "cat /var/lib/edgekit/journal.db", "scp -t /tmp"):
        done = device.ssh(command, PUSHER)
        assert (done.returncode, done.stdout) == (4, b""), done
        assert b"this device takes only signed releases" in done.stderr
    (tmp_path / "mine").write_bytes(b"mine")
    options = device.ssh_command(PUSHER)[1:-1]
    for argv in (
        ["sftp", "-b", "/dev/null", *options, f"{PUSHER}@{device.address}"],
        ["scp", *options, str(tmp_path / "mine"), f"{PUSHER}@{device.address}:/tmp/mine"],
        ["scp", "-O", *options, str(tmp_path / "mine"), f"{PUSHER}@{device.address}:/tmp/mine"],
        ["ssh", *options, "-o", "ExitOnForwardFailure=yes", "-R", "9999:127.0.0.1:22", "-N",
         f"{PUSHER}@{device.address}"],
        ["ssh", *options, "-W", "127.0.0.1:22", f"{PUSHER}@{device.address}"],
    ):  # fmt: skip
        done = subprocess.run(argv, capture_output=True, timeout=60, check=False, input=b"")
        assert done.returncode != 0, argv
        assert b"SSH-2.0" not in done.stdout
    assert device.code("test", "-e", "/tmp/mine") == 1
    for path in (ROOT, f"{ROOT}/journal.db", f"{ROOT}/etc/agent.toml"):
        line = ["setpriv", f"--reuid={PUSHER}", f"--regid={PUSHER}", "--clear-groups", "ls", path]
        assert device.code(*line) != 0 or path == ROOT
    assert device.code("setpriv", "--reuid=pi", "--regid=pi", "--clear-groups", "python3", "-c",
                       "import socket; socket.socket(socket.AF_UNIX).connect("
                       "'/run/edgekit/updater.sock')") == 1  # fmt: skip
    assert (box.current(), box.agent()) == (release, agent)
    done = device.ssh("true", "pi")
    assert done.returncode == 0


def everything_in_root(box: Installed) -> str:
    """The content of every file but the log, what is of this boot, and the record of refusals.

    What the agent writes of its release in idle time is left out, too.
    """
    names = ("run", "log", "state.db*", "releases/*/baseline.json", "releases/*/quality.json")
    left_out = " -o ".join(f"-path '{ROOT}/{name}'" for name in names)
    line = (
        f"find {ROOT} \\( {left_out} \\) -prune -o -type f -print0 | sort -z | xargs -0 sha256sum"
    )
    return box.device.exec("sh", "-c", line)


def test_a_stolen_key_brings_nothing_of_another_project(box: Installed, tmp_path: Path) -> None:
    """The thief has the key, edgekit, and the very same model, signed by keys of their own."""
    before, agent = everything_in_root(box), box.agent()
    thief = make_project_alone(tmp_path / "thief", 1883, None)
    thief.environment |= box.project.environment
    (thief.folder / "fleet.toml").write_text((box.project.folder / "fleet.toml").read_text())
    shutil.rmtree(thief.store, ignore_errors=True)
    shutil.copytree(box.project.store, thief.store, copy_function=os.link)
    thief.edgekit("sign")
    refused = thief.run("push", "box")
    assert refused.returncode == 4, refused.stderr
    assert everything_in_root(box) == before
    assert box.agent() == agent
    latest = box.state()["refusals"][0]
    assert "trust" in f"{latest['what']} {latest['why']}", latest


def test_upkeep_is_asked_for_through_the_door(box: Installed) -> None:
    release, edgekit = box.current(), box.project.edgekit
    assert "trees checked" in edgekit("scrub", "box", "--rate", "0")
    assert "would free" in edgekit("prune", "box", "--dry-run")
    assert "pinned" in edgekit("prune", "box", "--pin", release)
    assert "unpinned" in edgekit("prune", "box", "--unpin", release[:12])
    assert "freed" in edgekit("prune", "box")
    tuned = box.project.run("tune", "box")
    assert (tuned.returncode, "threads = 2" in tuned.stderr) == (2, True), (
        "the agent itself says it"
    )
    box.answers(release)


def test_systemd_finds_the_running_units_well_locked_up(box: Installed) -> None:
    for unit in ("edgekit-agent.service", "edgekit-updater@1.service"):
        line = ["systemd-analyze", "security", "--threshold=20", "--no-pager", unit]
        assert box.device.code(*line) == 0, unit


def test_devices_without_root_come_back_after_a_reboot(box: Installed) -> None:
    """By a user unit where the account lingers, by cron where linger is refused; one push first."""
    device, project = box.device, box.project
    fleet = project.folder / "fleet.toml"
    accounts = {"unit": "admin", "cron": "pi"}
    entries = [
        f'[devices.{name}]\naddress = "ssh:{account}@{device.name}"\nthreads = 2\n'
        for name, account in accounts.items()
    ]
    fleet.write_text(fleet.read_text() + "".join(entries))
    box.project.edgekit("stop", "box")
    pushed = project.run("push", "cron")
    assert pushed.returncode == 0, pushed.stderr
    said = " ".join(pushed.stderr.split())
    assert "cron is not enrolled: it will not come back after a reboot" in said
    assert "will not come back" in project.edgekit("state", "cron")
    device.exec("loginctl", "enable-linger", accounts["unit"])
    answer = json.loads(project.edgekit("enroll", "unit", "cron", "--user", "--json"))
    starts = {one["device"]: one["starts"] for one in answer["enrolled"]}
    assert starts == {"unit": "systemd-user", "cron": "cron"}
    pushed = project.run("push", "unit", "cron")
    assert (pushed.returncode, "not enrolled" in pushed.stderr) == (0, False), pushed.stderr

    def show(name: str) -> str:
        line = f"systemctl --user show --value --property={name} edgekit-agent.service"
        return device.ssh(line, accounts["unit"]).stdout.decode().strip()

    main = show("MainPID")
    fleet.write_text(fleet.read_text().replace(entries[0], entries[0] + "queue_limit = 3\n"))
    project.edgekit("push", "unit")
    assert (show("MainPID"), show("ActiveState"), show("SubState")) == (main, "active", "running")

    def answers(name: str) -> bool:
        state = json.loads(project.edgekit("state", name, "--json"))
        assert state["enrolled"] is True
        return bool(state["answering"])

    device.reboot()
    for name in accounts:
        eventually(partial(answers, name), 90, f"{name} came back")
        assert "Paris" in project.edgekit("ask", name, QUESTION)
    project.edgekit("stop", "unit")
    eventually(lambda: show("ActiveState") == "inactive", what="the user unit is down")
    project.edgekit("remove", "unit", "cron")
    for account in accounts.values():
        assert device.code("pgrep", "-u", account, "-f", "edgekit.agent") == 1
    project.edgekit("start", "box")
