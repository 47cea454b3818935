"""The lint's decision about a comparison with the source, and the table of counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekit.builder.lint.check import refuse_unsound
from edgekit.builder.lint.source import _WHAT, Compared, Difference, compared_of, unlike_source
from edgekit.builder.tools.process import INSIDE
from edgekit.errors import VerificationError
from tests.show import COUNTS, available, module_of
from tests.show.__main__ import main


def compared(*differences: Difference, left_out: tuple[str, ...] = ()) -> Compared:
    counts: dict[str, int] = {}
    for one in differences:
        counts[one.kind] = counts.get(one.kind, 0) + 1
    return Compared(differences, counts, {"matrices": 12}, left_out, 1.0)


def test_no_difference_is_no_finding() -> None:
    assert list(unlike_source(compared())) == []


def test_each_kind_is_one_refusal_that_names_value_and_place() -> None:
    windows = [
        Difference("attention-settings", f"layer {i} local_window_size", "-1", "128")
        for i in range(5)
    ]
    ids = Difference("token-ids", "genai_config.json eos_token_id", "[2]", "[2, 17]")
    findings = tuple(unlike_source(compared(*windows, ids)))
    assert [finding.name for finding in findings] == ["attention-settings", "token-ids"]
    assert "layer 2 local_window_size and 2 more: expected -1, found 128" in findings[0].message
    with pytest.raises(VerificationError) as caught:
        refuse_unsound(findings)
    assert "expected [2], found [2, 17]" in caught.value.why


def test_differences_beyond_the_listed_ones_are_counted() -> None:
    one = Difference("weight-blocks", "o_proj row 1, block 2", "the source's", "1 blocks differ")
    result = Compared((one,) * 20, {"weight-blocks": 60}, {}, (), 1.0)
    assert "and 57 more" in next(unlike_source(result)).message


def test_what_was_left_out_is_a_warning() -> None:
    (finding,) = unlike_source(compared(left_out=("rotary tables: of another form",)))
    assert (finding.name, finding.severity) == ("not-compared", "warn")
    assert "rotary tables: of another form" in finding.message


def test_the_event_of_the_script_is_read() -> None:
    event = {
        "event": "result", "differences": [
            {"kind": "norm-weights", "where": "n[5]", "expected": "1", "found": "2"}
        ],
        "counts": {"norm-weights": 1}, "compared": {"vectors": 61}, "left_out": [], "seconds": 6.8,
    }  # fmt: skip
    assert compared_of(event).differences[0].where == "n[5]"


def test_every_kind_of_the_scripts_has_its_words() -> None:
    texts = [path.read_text("utf-8") for path in (INSIDE / "lint").glob("*.py")]
    words = {word for text in texts for word in re.findall(r'"([a-z]+(?:-[a-z]+)+)"', text)}
    assert set(_WHAT) <= words
    assert words - set(_WHAT) <= {"utf-8"}


def test_the_table_of_counts_is_lazy_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    show = Path(__file__).parents[1] / "show"
    modules = {path.stem for path in show.glob("*.py")} - {"__init__", "__main__"}
    assert {module_of(name).rpartition(".")[2] for name in available()} == modules
    assert "planted" in available()
    assert main(["--list"]) == 0
    assert set(capsys.readouterr().out.split()) >= set(available())
    with pytest.raises(SystemExit) as ended:
        main(["nothing"])
    assert ended.value.code == 2
    assert set(available()) <= set(COUNTS)
