"""A device's own scoring: found by the key of agent.toml, used for each prompt, or said why not."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.serve.worker.scoring import load_factory
from edgekit.core.chat.sampling import Sampling
from edgekit.core.config import (
    AgentConfig,
    BrokerConfig,
    agent_config,
    factory_of,
    parse_agent_config,
)
from edgekit.errors import UsageError
from edgekit.fleet.inventory import Device
from tests.harness.worker_process import SETTINGS, told
from tests.unit.test_serve_worker import prompt, worker

RULES = """
class Always:
    def __init__(self, token):
        self.token = token

    def __call__(self, answer, logits):
        logits[self.token] = 1e6


def shout(sampling, prompt):
    return [Always(ord("A"))]


nothing = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package of one's own, forgotten after the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    package = tmp_path / "scoring_of_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "rules.py").write_text(RULES)
    (package / "broken.py").write_text("import not_there_at_all\n")
    for name in [name for name in sys.modules if name.startswith("scoring_of_test")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_the_factory_of_a_real_module_scores_every_prompt(folder: Path) -> None:
    factory = load_factory(f"{folder}/scoring_of_test.rules:shout")
    assert factory is not None
    assert len(factory(Sampling(), [1])) == 1
    with worker("Paris.", processors=factory) as parent:
        assert parent.done(prompt(limit=4)).text == "AAAA"
    assert load_factory("") is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("scoring_of_test.rules:whisper", "AttributeError"),
        ("scoring_of_test.rules:nothing", "not callable"),
        ("scoring_of_test.broken:shout", "not_there_at_all"),
        ("scoring_of_test.absent:shout", "ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_loaded_is_said_with_its_reason(folder: Path, name: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_factory(f"{folder}/{name}")
    assert name in caught.value.what
    assert why in caught.value.why
    assert caught.value.next_step


def test_the_worker_ends_at_its_start_where_it_cannot_be_loaded(folder: Path) -> None:
    custom = f"{folder}/scoring_of_test.absent:shout"
    done = told(msgspec.structs.replace(SETTINGS, logits_processors=custom))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "scoring_of_test.absent:shout" in done.stderr
    assert "next:" in done.stderr


def test_the_key_travels_from_fleet_toml_to_agent_toml() -> None:
    text = "/opt/my own/pkg.rules:make"
    told = agent_config("pi", BrokerConfig(), Device("local:x", logits_processors=text))
    read = parse_agent_config(msgspec.toml.encode(msgspec.to_builtins(told)))
    assert read.logits_processors == text
    assert factory_of(text) == ("/opt/my own", "pkg.rules", "make")
    assert factory_of("pkg:make") == ("", "pkg", "make")


@pytest.mark.parametrize(
    "text", ["rules", "rules.py:make:x", "opt/rules:make", "/a/rules:", ":make", "/a/b.1c:make"]
)
def test_a_name_that_is_none_is_refused_when_agent_toml_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="logits_processors"):
        AgentConfig("pi", logits_processors=text)
