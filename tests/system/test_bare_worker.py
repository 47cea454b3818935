"""The bare runtime that figures compare with: the same prompts, the same answers."""

from __future__ import annotations

import itertools
from pathlib import Path

from benchmarks.agent import QUESTION, pairs
from benchmarks.rig import Rig

TOKENS = 8


def test_the_bare_runtime_answers_in_the_device_s_own_model_process(smollm2: Path) -> None:
    with Rig(2, str(smollm2)) as rig:
        rounds = [list(pairs(rig, bare, QUESTION, TOKENS, 2)) for bare in rig.compared()]
    assert [len(measured) for measured in rounds] == [2, 2]
    for through_mqtt, plain in itertools.chain(*rounds):
        assert through_mqtt.tokens == plain.tokens == TOKENS
        assert through_mqtt.first_seconds > 0
        assert plain.rest_seconds > 0
