"""README's tour and its first device are typed as they stand there."""

from __future__ import annotations

import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import edgekit
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.cli.main import application
from edgekit.core.manifest import oci_platform
from edgekit.fleet import inventory
from tests import tools
from tests.building import AS_INSTALLED
from tests.conftest import Project, made_in_this_run

README = Path(edgekit.__file__).parent.parent / "README.md"
pytestmark = pytest.mark.timeout(1200)  # the first of a run: a fresh machine installs and builds


def block(language: str) -> str:
    """The one code block of that language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    return textwrap.dedent(str(text)).strip() + "\n"


def tour() -> list[list[str]]:
    lines = [line.removeprefix("$ ") for line in block("console").splitlines()]
    return [shlex.split(line)[1:] for line in lines]


def strangers(port: int) -> dict[str, str]:
    """What the examples in sh and Python print against the broker on `port`."""
    rr = f"{tools.find('mosquitto_rr')} -V 5 -p {port} "
    commands = {
        "sh": ["sh", "-c", block("sh").replace("mosquitto_rr ", rr, 1)],
        "python": [sys.executable, "-c", block("python").replace("1883", str(port))],
    }
    return {
        name: subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for name, command in commands.items()
    }


def test_the_device_entry_is_one_that_fleet_toml_takes(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(block("toml"))
    assert inventory.load(path).select([]) == ["pi-1"]


def test_the_tour_works_command_by_command(smollm2: Path, tmp_path: Path) -> None:
    with tools.mosquitto(tmp_path) as broker:
        folder = tmp_path / "fleet"
        folder.mkdir()
        gguf = smollm2_gguf()
        (folder / gguf.name).symlink_to(gguf)
        project = Project(folder, broker.port, dict(AS_INSTALLED))
        if made_in_this_run().exists():  # by the tour's command, on a machine that had no build
            shutil.copytree(smollm2, folder / "smollm2-int4")
        printed = {}
        for arguments in tour():
            printed[arguments[0]] = project.edgekit(*arguments)
            if arguments[0] == "ask":
                printed |= strangers(broker.port)
    assert json.loads(printed["sh"])["object"] == "chat.completion"
    assert "Paris" in printed["sh"]
    assert printed["python"].strip()
    assert "Paris" in printed["ask"]
    assert "ready" in printed["devices"]
    # good, or on trial while the soak of 30 s lasts
    assert re.search(r"(?m)^release .*  (good|trial)$", printed["state"]), printed["state"]


def test_a_first_device_over_ssh_answers_as_the_readme_says(smollm2: Path, tmp_path: Path) -> None:
    """The Pi's steps, on an account of this machine: other names, and the runtime of its CPU."""
    with tools.mosquitto(tmp_path) as broker, tools.sshd(folder_in(tmp_path, "sshd")) as server:
        home = folder_in(tmp_path, "home")
        ssh = folder_in(home, ".ssh")
        (ssh / "config").write_text(
            f"Host pi-1.local\n  HostName 127.0.0.1\n  Port {server.port}\n"
            f"  IdentityFile {server.identity}\n  UserKnownHostsFile {server.known_hosts}\n"
        )
        environment = {"HOME": str(home), "SSH_AUTH_SOCK": ""}
        project = Project(folder_in(tmp_path, "fleet"), broker.port, environment)
        project.edgekit("init", ".", "--port", str(broker.port))
        root = f'root = "{tmp_path / "root"}"\n'
        (project.folder / "fleet.toml").write_text(block("toml").replace("pi@", "") + root)
        (project.folder / "smollm2-int4").symlink_to(smollm2)
        here = f"{oci_platform(platform.machine())}:{sys.version_info[0]}.{sys.version_info[1]}"
        try:
            for line in block("bash").replace("linux/arm64:3.11", here).splitlines():
                printed = project.edgekit(*shlex.split(line)[1:])
        finally:
            project.run("stop", "pi-1")
    assert "Paris" in printed


def folder_in(folder: Path, name: str) -> Path:
    (folder / name).mkdir(mode=0o700)
    return folder / name


def names_of(app: typer.Typer) -> list[str]:
    commands = app.registered_commands
    return [each.name or each.callback.__name__ for each in commands if each.callback]


def test_every_verb_has_help_with_an_example() -> None:
    """Of each command line that `edgekit VERB` makes, in this process."""
    app = application()
    verbs = [[name] for name in names_of(app)]
    assert len(verbs) >= 11
    for group in app.registered_groups:
        assert group.typer_instance is not None
        verbs += [[group.name or "", name] for name in names_of(group.typer_instance)]
    assert ["key", "list"] in verbs
    for verb in verbs:
        said = CliRunner().invoke(application(verb[0]), [*verb, "--help"])
        assert said.exit_code == 0, said.output
        assert "Example" in said.output, verb
