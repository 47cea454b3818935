"""Another family than Llama goes the same road: a tiny random Qwen2 in Hugging Face's format."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.builder.tools.host import HostToolchain
from edgekit.client import Delta, Final, Requester
from tests import tools
from tests.building import make_tiny, silent
from tests.conftest import PACK, make_project

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("family", ["qwen2", "gemma"])
def test_a_hugging_face_folder_of_another_family_is_built_pushed_and_answers(
    family: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    python = HostToolchain().ready(silent).python
    make_tiny(python, family, source)
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, None)
        project.edgekit("build", "--host", "--gate", "small", "-m", str(source), "-o", "model")
        project.edgekit("pack", "model", "--name", family, "--context", "64", *PACK)
        project.edgekit("push", "demo")
        try:
            with Requester(project.broker, "tester") as requester:
                body = {
                    "messages": [{"role": "user", "content": "Grüße aus 東京"}],
                    "max_tokens": 12,
                    "temperature": 1.0,
                    "seed": 1,
                }
                replies = list(requester.ask("demo", body))
        finally:
            project.edgekit("stop", "demo")
    final = replies[-1]
    assert isinstance(final, Final)
    assert final.completion["model"] == family
    assert final.completion["usage"]["completion_tokens"] >= 1
    assert "".join(r.text for r in replies if isinstance(r, Delta)) == final.text
