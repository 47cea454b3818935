"""The import contracts of pyproject.toml hold, and each reports a violation planted for it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")

# contract: the file that gets a bad line, and the line
PLANTED = [
    ("Imports point down", "core/digest.py", "import edgekit.store"),
    ("Imports point down", "builder/spec.py", "import edgekit.fleet.plan"),  # strangers
    ("Imports point down", "newpart.py", "import edgekit.errors"),  # in no layer
    ("Core never acts", "core/protocol/wire.py", "import time"),
    ("Core never acts", "agent/serve/session/session.py", "import threading"),
    ("The device carries only its own", "store.py", "import typer"),
    ("Two drivers of one engine", "mqtt/packet.py", "import edgekit.mqtt.engine"),
    ("Two drivers of one engine", "mqtt/polled.py", "import edgekit.mqtt.threaded"),
    ("One door to prompt_toolkit", "cli/talk/chat/chat.py", "import prompt_toolkit"),
    ("Core never acts", "cli/talk/top/table.py", "import time"),
    ("One door to paho", "client/requester.py", "import paho.mqtt.client"),
    ("One door to CBOR", "core/protocol/wire.py", "import cbor2"),
    ("One door to fabric", "fleet/plan.py", "import paramiko"),
    ("Core never acts", "fleet/ssh/hostkeys.py", "import socket"),
    (
        "Two doors to Pillow, of the requester and of the model's process",
        "client/requester.py",
        "import PIL.Image",
    ),
    ("One door to the runtime", "agent/serve/worker/worker.py", "import onnxruntime_genai"),
    ("One door to grammars", "agent/serve/worker/grammar/grammars.py", "import llguidance"),
    ("One door to Hugging Face's tokens", "agent/serve/worker/admission.py", "import tokenizers"),
    (
        "Two doors to templates, of chats and of the report",
        "fleet/rollout/telling/told.py",
        "import jinja2",
    ),
    ("Core never acts", "fleet/rollout/report/axis.py", "import time"),
    ("One door to the embedded broker", "cli/broker.py", "import iotcore"),
    ("One door to signatures", "bundle/pack.py", "import securesystemslib"),
    ("One door to TUF", "bundle/pack.py", "import tuf.api.metadata"),
    ("Imports point down", "bundle/pack.py", "import edgekit.signing.roles"),  # strangers
    ("One door to TUF", "agent/release/staging/stage.py", "import tuf"),
    ("Core never acts", "builder/plan/plan.py", "import os"),
    (
        "The rooms of a release",
        "agent/release/space/room.py",
        "import edgekit.agent.release.staging",
    ),
    ("The agent's rooms", "agent/serve/worker/beam.py", "import edgekit.agent.serve.session.rate"),
    ("The agent's rooms", "agent/serve/session/rate.py", "import edgekit.agent.serve.loop.stall"),
    ("The agent's parent stays light", "agent/serve/loop/stall.py", "import numpy"),
    (
        "The agent's parent stays light",
        "agent/serve/session/rules/rules.py",
        "import edgekit.tokens.rule",
    ),
    (
        "The agent's parent stays light",
        "agent/serve/loop/stall.py",
        "import edgekit.agent.serve.worker.shares",
    ),
    ("The builder's rooms", "builder/tools/job.py", "import edgekit.builder.source.find"),
    ("The builder's rooms", "builder/plan/plan.py", "import edgekit.builder.make.told"),
    ("Who asks devices", "broker/write.py", "import edgekit.client.asking"),
    ("The gateway's rooms", "gateway/catalog.py", "import edgekit.gateway.hub"),
    ("The gateway's rooms", "gateway/ollama/lines.py", "import edgekit.gateway.hub"),
    ("Core never acts", "gateway/ollama/options.py", "import time"),
    ("The gateway's rooms", "gateway/hub.py", "import edgekit.gateway.page.facts"),
    ("One door to HTTP", "gateway/hub.py", "import starlette.requests"),
    ("One door to HTTP", "gateway/page/files.py", "import starlette.responses"),
    ("Core never acts", "gateway/page/fleet.py", "import time"),
    ("Core never acts", "gateway/chunks.py", "import time"),
    ("The builder's rooms", "builder/newroom.py", "import edgekit.errors"),  # in no layer
]


def lint(folder: Path) -> tuple[dict[str, str], str]:
    """KEPT or BROKEN by contract, and the whole output."""
    done = subprocess.run(
        [str(LINT), "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    verdicts = dict(re.findall(r"^(.+?) (KEPT|BROKEN)", done.stdout, re.MULTILINE))
    assert verdicts, done.stdout + done.stderr
    return verdicts, done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is, to be broken."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "edgekit", folder / "edgekit", ignore=ignored)
    return folder


def contracts() -> set[str]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return {contract["name"] for contract in config["tool"]["importlinter"]["contracts"]}


def test_the_contracts_hold(copy: Path) -> None:
    verdicts, output = lint(copy)
    assert verdicts == dict.fromkeys(contracts(), "KEPT"), output


def test_every_contract_has_a_planted_violation() -> None:
    assert {name for name, _, _ in PLANTED} == contracts()


@pytest.mark.parametrize(("contract", "file", "line"), PLANTED)
def test_a_planted_violation_is_reported(copy: Path, contract: str, file: str, line: str) -> None:
    path = copy / "edgekit" / file
    before = path.read_text("utf-8") if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n", "utf-8")
    try:
        verdicts, output = lint(copy)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before, "utf-8")
    assert verdicts[contract] == "BROKEN", output
    assert line.removeprefix("import ").partition(".")[0] in output
    others = {name for name, verdict in verdicts.items() if verdict == "BROKEN"} - {contract}
    assert not others, output
