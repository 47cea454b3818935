"""What a device has verified before costs less, and is judged as python-tuf judges it.

The oracle is `accept`, which asks python-tuf for every answer.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import VerificationError
from edgekit.trust import repeat
from edgekit.trust.metadata import KeptTrust, TrustedSet, accept
from edgekit.trust.repeat import believe, proof_of, repeated
from edgekit.trust.signed import Metadata
from tests.believing import DAY, NOW, keep, maker

NAMES = ("timestamp", "snapshot", "targets")
LIVES = {"root": 5 * 365, "targets": 2 * 365, "snapshot": 365, "timestamp": 365}  # days


def proven(trusted: TrustedSet) -> KeptTrust:
    kept = keep(trusted)
    return msgspec.structs.replace(kept, proof=proof_of(kept))


def outcome(run: Any, *arguments: Any) -> object:
    try:
        return run(*arguments)
    except VerificationError as error:
        return error.to_dict()


def project(roots: int, **changed: Any) -> Metadata:
    made = maker(**changed)
    for step in range(roots):
        made.rotate("targets", f"targets {step}")
    if roots:
        made.bump()
    return made.made()


def test_the_same_again_is_believed_without_a_question_to_tuf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offered = project(2)
    kept = proven(accept(None, None, offered, NOW))
    expected = accept(kept, None, offered, NOW + DAY)
    monkeypatch.setattr(repeat, "accept", None)
    assert believe(kept, None, offered, NOW + DAY) == expected
    own = Metadata([], kept.timestamp, kept.snapshot, kept.targets)  # what `permitted` asks
    assert believe(kept, None, own, NOW + DAY) == expected


@pytest.mark.parametrize("role", LIVES)
@pytest.mark.parametrize("late", [-1, 0, 1])
def test_it_expires_at_the_same_second(role: str, late: int) -> None:
    life = dict.fromkeys(LIVES, 1.0) | {role: 0.1}
    offered = project(0, life=life)
    kept = proven(accept(None, None, offered, NOW))
    clock = int(NOW) + LIVES[role] * DAY * 0.1 + late
    assert (repeated(kept, offered, clock) is None) == (late >= 0)
    assert outcome(believe, kept, None, offered, clock) == outcome(
        accept, kept, None, offered, clock
    )


_PROJECTS = [project(0), project(1), project(3)]
_OTHER = project(3)  # other timestamps and a chain of its own


def _early(root: str) -> str:
    """An old root whose end lies before year 1 in UTC."""
    told = json.loads(root)
    told["signed"]["expires"] = "0001-01-01T00:00:00+14:00"
    return json.dumps(told)


_EARLY = _early(_PROJECTS[2].roots[0])


@st.composite
def offers(draw: st.DrawFn) -> tuple[KeptTrust, Metadata, float]:
    """What a device keeps, what it is offered, and its clock; mostly the same with one change."""
    texts = draw(st.sampled_from(_PROJECTS))
    kept = proven(accept(None, None, texts, NOW))
    changes: dict[str, Any] = {}
    match draw(st.sampled_from(["nothing", "roots", "text", "byte", "kept"])):
        case "roots":
            pool = st.sampled_from([*texts.roots, *_OTHER.roots, "{}", "not json", _EARLY])
            changes["roots"] = draw(st.lists(pool, max_size=5))
        case "text":
            name = draw(st.sampled_from(NAMES))
            changes[name] = getattr(_OTHER, name)
        case "byte":
            name = draw(st.sampled_from(NAMES))
            text = getattr(texts, name)
            at = draw(st.integers(0, len(text) - 1))
            changes[name] = text[:at] + draw(st.sampled_from('0a{} "')) + text[at + 1 :]
        case "kept":
            name = draw(st.sampled_from([*NAMES, "root"]))
            text = getattr(kept, name)
            at = draw(st.integers(0, len(text) - 1))
            kept = msgspec.structs.replace(kept, **{name: text[:at] + "0" + text[at + 1 :]})
    days = draw(st.sampled_from([-20000.0, 0.0, 100.0, 200.0, 366.0, 800.0, 2000.0]))
    return kept, msgspec.structs.replace(texts, **changes), NOW + days * DAY


@given(offers())
def test_whatever_is_offered_the_answer_is_that_of_tuf(
    case: tuple[KeptTrust, Metadata, float],
) -> None:
    kept, offered, clock = case
    assert outcome(believe, kept, None, offered, clock) == outcome(
        accept, kept, None, offered, clock
    )


def test_an_old_root_that_ends_before_year_one_is_judged_as_tuf_judges_it() -> None:
    texts = _PROJECTS[2]
    kept = proven(accept(None, None, texts, NOW))
    offered = msgspec.structs.replace(texts, roots=[_EARLY, *texts.roots])
    assert outcome(believe, kept, None, offered, NOW) == outcome(accept, kept, None, offered, NOW)


@pytest.mark.parametrize("field", ["anchor", "root", *NAMES, "signed_at"])
def test_a_change_of_what_is_kept_ends_the_proof(field: str) -> None:
    offered = project(0)
    kept = proven(accept(None, None, offered, NOW))
    value = getattr(kept, field)
    changed = msgspec.structs.replace(kept, **{field: value + (1 if field == "signed_at" else " ")})
    same = Metadata(offered.roots, changed.timestamp, changed.snapshot, changed.targets)
    assert repeated(changed, same, NOW) is None


def test_other_code_takes_no_word_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = project(0)
    kept = proven(accept(None, None, offered, NOW))
    assert repeated(kept, offered, NOW) is not None
    monkeypatch.setattr(repeat, "_CODE", ("another tree",))
    assert repeated(kept, offered, NOW) is None
    assert repeated(msgspec.structs.replace(kept, proof=""), offered, NOW) is None


def test_of_two_equal_keys_the_last_one_counts_as_for_tuf() -> None:
    """A signature covers what was parsed: a stranger can add a key before the signed one."""
    made = maker()
    made.hashes = False
    plain = made.made()
    signed = json.loads(plain.targets)["signed"]
    planted = {**signed, "expires": "2999-01-01T00:00:00Z", "targets": {}}
    text = '{"signed": ' + json.dumps(planted) + ", " + plain.targets.lstrip()[1:]
    first, second = f'"expires":"{signed["expires"]}"', '"expires":"2999-01-01T00:00:00Z",'
    assert first in text
    text = text.replace(first, second + first)
    offered = msgspec.structs.replace(plain, targets=text)
    trusted = accept(None, None, offered, NOW)
    assert trusted.releases
    kept = proven(trusted)
    assert believe(kept, None, offered, NOW) == trusted
    assert repeated(kept, offered, NOW + 750 * DAY) is None
