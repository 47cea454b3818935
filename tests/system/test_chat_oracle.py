"""Chats as transformers reads them; `python -m tests.show chat-oracle` runs more of them."""

from __future__ import annotations

from pathlib import Path

from tests.models.chat_templates import FAMILIES, IDIOMS, TEMPLATES
from tests.models.tokenizer_kinds import KINDS
from tests.models.tool_templates import TOOL_TEMPLATES
from tests.show import tool_oracle
from tests.show.chat_oracle import compared

CONVERSATIONS = 24  # with each template; two with each pair of template and tokenizer


def test_text_and_ids_are_those_of_transformers_and_no_turn_is_forged(tmp_path: Path) -> None:
    assert len(FAMILIES) >= 14
    assert len(IDIOMS) >= 15
    assert len(KINDS) >= 12
    counted = compared(CONVERSATIONS, tmp_path)
    assert not counted.wrong, counted.wrong[:3]
    cases = CONVERSATIONS * len(TEMPLATES)
    assert counted.texts_equal + counted.refused_by_both == cases
    assert counted.benign > cases // 4
    assert counted.forged_by_huggingface > cases // 4
    assert counted.refused_by_name < cases // 10


def test_tools_calls_and_results_are_those_of_transformers_and_none_is_forged(
    tmp_path: Path,
) -> None:
    counted = tool_oracle.compared(CONVERSATIONS, tmp_path)
    assert not counted.wrong, counted.wrong[:3]
    cases = CONVERSATIONS * len(TOOL_TEMPLATES)
    assert counted.texts_equal + counted.refused_by_both == cases
    assert counted.texts_equal > cases * 3 // 4
    assert counted.ids_equal > cases // 4
    assert counted.forged_by_huggingface > cases // 4
    assert counted.refused_by_name < cases // 20
