"""How a device comes back after a reboot is decided from what was tried there, and nothing else."""

from __future__ import annotations

import ast
import json
import shlex
import sys
from pathlib import Path, PurePosixPath

import pytest

from edgekit import data
from edgekit.agent.release.root import Root
from edgekit.agent.release.supervisor.choose import KINDS, supervisor_of
from edgekit.core import layout
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.enroll import decide, look, make, record, unmake
from edgekit.fleet.enroll.decide import check_own, enroll_plan, is_system, remove_plan
from edgekit.fleet.enroll.values import Carried, EnrollPlan, MadeRecord, Starts, Surroundings, Wish

HOME = PurePosixPath("/home/pi")
OURS = (record.__name__, "edgekit.fleet.receive")  # they go along
ROOT = HOME / ".local/share/edgekit"
UNITS = {
    path.name: path.read_text("utf-8") for path in data.path("deploy/systemd").glob("edgekit-*")
}


def found(**more: object) -> Surroundings:
    """An account without root on a Debian where everything works."""
    told: dict[str, object] = {
        "user": "pi",
        "uid": 1000,
        "home": str(HOME),
        "has_sudo": True,
        "no_sudo": "a password is required",
        "no_systemd": "",
        "no_user_systemd": "",
        "linger": True,
        "no_crontab": "",
        "crontab": "",
        "cron_runs": True,
        "accounts": {},
        "no_useradd": "",
        "no_openssl": "",
        "record": "",
        "root_is_link": False,
        "root_owner": "",
        "has_release": False,
        "has_door": False,
        "parts": {},
        "account_home": str(HOME),
    }
    return Surroundings(**(told | more))  # type: ignore[arg-type]  # each test gives the right types


def wish(**more: object) -> Wish:
    told = {"device": "pi-1", "root": ROOT, "python": "/usr/bin/python3", "system": False}
    return Wish(**(told | {"units": UNITS} | more))  # type: ignore[arg-type]  # as above


def test_only_the_device_that_is_there_is_removed() -> None:
    """An address that was copied, or an alias, leads to another one's models and prompts."""
    own = MadeRecord([("file", "/x")], device="pi-1")
    check_own(own, "", "pi-1")
    check_own(own, "pi-2", "pi-1")  # what made it counts
    check_own(None, "pi-1", "pi-1")
    check_own(None, "", "pi-1")
    check_own(MadeRecord([]), "", "pi-1")
    for made, configured in ((own, ""), (own, "pi-2"), (None, "pi-1"), (MadeRecord([]), "pi-1")):
        with pytest.raises(UsageError, match="is that of pi-1; nothing was removed") as caught:
            check_own(made, configured, "pi-2")
        assert "`edgekit remove pi-1`" in caught.value.next_step


def plan(**more: object) -> EnrollPlan:
    return enroll_plan(found(**more), wish())


@pytest.mark.parametrize(
    ("more", "starts"),
    [
        ({}, Starts.USER),
        ({"no_user_systemd": "linger is refused: Access denied"}, Starts.CRON),
        ({"no_user_systemd": "x", "no_crontab": "there is no crontab"}, Starts.NOTHING),
        ({"no_user_systemd": "x", "cron_runs": False}, Starts.NOTHING),
        ({"no_user_systemd": "x", "no_crontab": "pi is not allowed"}, Starts.NOTHING),
    ],
)
def test_the_best_way_that_works_is_taken_and_the_others_are_named(
    more: dict[str, object], starts: Starts
) -> None:
    chosen = plan(**more)
    assert chosen.starts is starts
    ways = {Starts.USER: 0, Starts.CRON: 1, Starts.NOTHING: 2}
    assert len(chosen.notes) == ways[starts]
    assert {step.do for step in chosen.steps} >= {"record", "folder", "file"}
    assert ("crontab" in {step.do for step in chosen.steps}) is (starts is Starts.CRON)
    assert ("linger" in {step.do for step in chosen.steps}) is (starts is Starts.USER)


@pytest.mark.parametrize(
    ("more", "starts", "why"),
    [
        ({}, Starts.CRON, "no system install: not booted with systemd"),
        ({"cron_runs": False}, Starts.NOTHING, "no system install: not booted with systemd"),
        ({"no_systemd": ""}, Starts.CRON, "no system install: it was not asked for"),
    ],
)
def test_root_without_systemd_comes_back_by_cron_and_is_told_that_it_runs_as_root(
    more: dict[str, object], starts: Starts, why: str
) -> None:
    none = "not booted with systemd"
    told = {"uid": 0, "user": "root", "no_sudo": "", "no_systemd": none, "no_user_systemd": none}
    around = found(**(told | more))
    assert bool(around.no_systemd) is not is_system(around, None, False, False)
    chosen = enroll_plan(around, wish())
    assert chosen.starts is starts
    assert chosen.notes[-1].startswith(why)
    assert "run as root there" in chosen.notes[-1]


def test_the_record_comes_first_and_the_mark_last() -> None:
    for system in (True, False):
        root = PurePosixPath("/var/lib/edgekit") if system else ROOT
        steps = enroll_plan(found(), wish(system=system, root=root, push_key="k")).steps
        assert steps[0].do == "record"
        assert steps[-1].values["path"] == str(root / layout.ENROLLED_FILE)


@pytest.mark.parametrize(
    ("more", "asked", "root_told", "has_root", "system"),
    [
        ({"no_sudo": ""}, None, False, False, True),
        ({"no_sudo": ""}, None, True, False, False),
        ({"no_sudo": ""}, None, False, True, False),
        ({"no_sudo": ""}, False, False, False, False),
        ({"no_sudo": ""}, True, True, True, True),
        ({}, None, False, False, False),
        ({"no_sudo": "", "no_systemd": "offline"}, None, False, False, False),
        ({"no_sudo": "", "no_useradd": "none"}, None, False, False, False),
    ],
)
def test_a_system_install_is_taken_where_it_is_possible_and_harms_nothing(
    more: dict[str, object], asked: bool | None, root_told: bool, has_root: bool, system: bool
) -> None:
    assert is_system(found(**more), asked, root_told, has_root) is system


@pytest.mark.parametrize(
    "more", [{}, {"no_sudo": "", "no_systemd": "x"}, {"no_sudo": "", "no_useradd": "x"}]
)
def test_a_system_install_that_is_asked_for_and_impossible_is_refused(
    more: dict[str, object],
) -> None:
    with pytest.raises(UsageError, match="a system install is not possible"):
        is_system(found(**more), True, False, False)


@pytest.mark.parametrize(
    "name", ["a b", 'say "x"', "100%", "$HOME", "größe", "back\\slash", "it's"]
)
def test_a_root_that_no_unit_can_name_goes_to_cron(name: str) -> None:
    root = HOME / name
    chosen = enroll_plan(found(), wish(root=root))
    assert chosen.starts is Starts.CRON
    (line,) = [s.values["line"] for s in chosen.steps if s.do == "crontab"]
    assert line.startswith("@reboot env -i ")
    said = line.removeprefix("@reboot ").replace(r"\%", "%")  # as cron reads it
    words = shlex.split(said, comments=True)
    assert words[words.index("--root") + 1] == str(root)
    assert words[-2] == f">>{root / layout.LOG_FILE}"
    with pytest.raises(UsageError, match="a system install cannot use"):
        enroll_plan(found(), wish(root=PurePosixPath("/srv") / name, system=True))


@pytest.mark.parametrize("root", ["/home/pi/x", "/root/x", "/run/user/1/x"])
def test_a_system_install_in_a_home_is_refused(root: str) -> None:
    with pytest.raises(UsageError, match="cannot use") as refused:
        enroll_plan(found(), wish(root=PurePosixPath(root), system=True))
    assert "ProtectHome" in refused.value.why


@pytest.mark.parametrize("more", [{"root_is_link": True}, {"root_owner": "ann"}])
def test_a_root_of_another_account_or_a_link_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(EdgekitError, match=r"belongs to ann|is a link"):
        plan(**more)


def test_what_another_device_enrolled_is_not_taken() -> None:
    other = json.dumps({"made": [], "device": "pi-2", "root": str(ROOT), "system": False})
    with pytest.raises(UsageError, match="enrolled already, as pi-2"):
        plan(record=other)
    moved = json.dumps({"made": [], "device": "pi-1", "root": "/elsewhere/x", "system": False})
    with pytest.raises(UsageError, match="enrolled already, with the root /elsewhere/x"):
        plan(record=moved)
    assert plan(record=json.dumps({"made": []})).starts is Starts.USER  # it was cut at once
    with pytest.raises(EdgekitError, match="cannot be read"):
        plan(record="{")


@pytest.mark.parametrize("root", ["/", "/usr", "/home", str(HOME), "/home/pi/.."])
def test_a_home_and_the_system_s_own_folders_are_never_emptied(root: str) -> None:
    normal = PurePosixPath(root.removesuffix("/pi/.."))
    with pytest.raises(EdgekitError, match="is not emptied"):
        remove_plan(found(), normal, list(UNITS), system=False)


def test_what_was_there_before_stays_at_a_removal() -> None:
    """Accounts, linger and units that no record names are another's."""
    steps = remove_plan(found(), ROOT, list(UNITS), system=False).steps
    assert {step.do for step in steps} == {"stop", "root_gone", "no_record"}
    made = json.dumps({"made": [["linger", "pi"], ["account", "edgekit"], ["crontab", "# m"]]})
    steps = remove_plan(found(record=made), ROOT, list(UNITS), system=False).steps
    assert {step.do for step in steps} >= {"linger", "no_account", "crontab"}
    assert steps[-1].do == "no_record", "until all is gone the record says what is left"


def test_each_path_of_a_root_is_one_that_a_removal_takes() -> None:
    names = {
        str(getattr(layout, name)).split("/", maxsplit=1)[0]
        for name in dir(layout)
        if name.isupper() and name not in ("PATH", "AGENT", "RUNTIME", "MODEL", "BUNDLE_CONFIG")
    } - {layout.GOLDEN, layout.BASELINE, layout.QUALITY}
    assert names <= {pattern.rstrip("*") for pattern in decide.ROOT_NAMES}


def test_every_step_has_a_function_on_the_device() -> None:
    kinds = {
        node.args[0].value
        for file in ("decide.py", "values.py", "drive.py")
        for node in ast.walk(ast.parse((Path(decide.__file__).parent / file).read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Step"
        and isinstance(node.args[0], ast.Constant)
    }
    there = {name[3:] for module in (make, unmake) for name in vars(module) if name[:3] == "do_"}
    assert kinds == there


@pytest.mark.parametrize("module", [look, make, record, unmake])
def test_the_device_s_scripts_need_the_standard_library_alone(module: object) -> None:
    text = Path(str(module.__file__)).read_text("utf-8")  # type: ignore[attr-defined]  # it is a module
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            assert all(n.name.split(".")[0] in sys.stdlib_module_names for n in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = str(node.module)
            assert name.split(".", maxsplit=1)[0] in sys.stdlib_module_names or name in OURS
    assert record.PENDING == look.PENDING


def test_files_are_written_by_the_account_that_owns_root() -> None:
    """Root follows no link that the agent's account could have made."""
    carried = (Carried(layout.HARDWARE_FILE, b"pi5\n"),)
    root = PurePosixPath("/var/lib/edgekit")
    steps = enroll_plan(found(), wish(system=True, root=root, files=carried, make_key=True)).steps
    inside = [s for s in steps if str(s.values.get("path", "")).startswith(f"{root}/")]
    assert len(inside) >= 6
    assert {step.values["account_of"] for step in inside} == {"edgekit"}


@pytest.mark.parametrize("starts", list(Starts))
def test_the_agent_knows_each_word_that_enrolling_writes(starts: Starts, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / layout.SUPERVISOR_FILE).write_text(f"{starts.value}\n")
    kind = "systemd" if starts.value.startswith("systemd") else "detached"
    assert type(supervisor_of(Root(tmp_path))) is KINDS[kind]
    (tmp_path / layout.SUPERVISOR_FILE).write_bytes(b"")  # after a power cut
    assert type(supervisor_of(Root(tmp_path))) is KINDS["detached"]
    (tmp_path / layout.ENROLLED_FILE).write_text(json.dumps({"starts": starts.value}))
    assert type(supervisor_of(Root(tmp_path))) is KINDS[kind]


def test_the_cron_of_busybox_starts_nothing_at_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its crontab takes a line with @reboot, and its daemon leaves it out."""
    for name in ("busybox", "cronie"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    link = tmp_path / "crontab"
    link.symlink_to("busybox")
    assert "knows no @reboot" in look.cron_problem()
    link.unlink()
    link.symlink_to("cronie")
    assert look.cron_problem() == ""


@pytest.mark.parametrize("name", ["a:b", "a\nb", "a\x1bb"])
@pytest.mark.parametrize("system", [True, False])
def test_a_root_that_no_push_or_no_cron_can_use_is_refused(name: str, system: bool) -> None:
    with pytest.raises(UsageError, match="can be no root of a device"):
        enroll_plan(found(), wish(root=HOME / name, system=system))
