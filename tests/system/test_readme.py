"""README's tour is typed as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.cli.main import application
from edgekit.fleet import inventory
from tests import tools
from tests.building import AS_INSTALLED
from tests.conftest import Project, made_in_this_run

README = Path(edgekit.__file__).parent.parent / "README.md"
pytestmark = pytest.mark.timeout(600)


def block(language: str) -> str:
    """The one code block of that language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    return str(text)


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
    assert "good" in printed["state"]


def test_every_verb_has_help_with_an_example() -> None:
    project = Project(Path.cwd(), 1)
    verbs = [
        command.callback.__name__
        for command in application().registered_commands
        if command.callback
    ]
    assert len(verbs) >= 11
    for verb in [*([v] for v in verbs), ["broker", "run"]]:
        text = project.edgekit(*verb, "--help")
        assert "Example" in text, verb
