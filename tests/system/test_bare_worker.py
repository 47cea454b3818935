"""The bare runtime that figures compare with: the same prompts, the same answers."""

from __future__ import annotations

from pathlib import Path

from benchmarks.agent import QUESTION, pairs
from benchmarks.rig import Rig

TOKENS = 8


def test_the_bare_runtime_answers_in_the_device_s_own_model_process(smollm2: Path) -> None:
    with Rig(1, str(smollm2)) as rig, rig.compared() as bare:
        measured = list(pairs(rig, bare, QUESTION, TOKENS, 2))
    assert len(measured) == 2
    for through_mqtt, plain in measured:
        assert through_mqtt.tokens == plain.tokens == TOKENS
        assert through_mqtt.first_seconds > 0
        assert plain.rest_seconds > 0
