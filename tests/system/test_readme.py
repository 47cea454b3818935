"""README's tour is typed as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import edgekit
from edgekit.builder.samples import smollm2_gguf
from edgekit.cli.main import app
from tests import tools
from tests.conftest import Project

README = Path(edgekit.__file__).parent.parent / "README.md"
pytestmark = pytest.mark.timeout(300)


def tour() -> list[list[str]]:
    (block,) = re.findall(r"```console\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    lines = [line.removeprefix("$ ") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines]


def test_the_tour_works_command_by_command(tmp_path: Path) -> None:
    with tools.mosquitto(tmp_path) as broker:
        folder = tmp_path / "fleet"
        folder.mkdir()
        gguf = smollm2_gguf()
        (folder / gguf.name).symlink_to(gguf)
        project = Project(folder, broker.port)
        printed = {arguments[0]: project.edgekit(*arguments) for arguments in tour()}
    assert "Paris" in printed["ask"]
    assert "ready" in printed["devices"]
    assert "good" in printed["state"]


def test_every_verb_has_help_with_an_example() -> None:
    project = Project(Path.cwd(), 1)
    verbs = [command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(verbs) >= 11
    for verb in [*([v] for v in verbs), ["broker", "run"]]:
        text = project.edgekit(*verb, "--help")
        assert "Example" in text, verb
