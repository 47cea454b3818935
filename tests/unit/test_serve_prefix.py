"""What an idle slot is worth to a prompt, and to whom."""

from __future__ import annotations

from edgekit.agent.serve.worker.prefix import (
    KEPT_HALF_LIFE_SECONDS,
    Slot,
    Wanted,
    choose_slot,
    common_length,
    reusable,
)

SYSTEM = [1, 2, 3, 4]
CHAT = [*SYSTEM, 10, 11, 12, 13, 14, 15]
NOW = 1000.0


def slot(tokens: list[int], number: int = 0, requester: str = "ann", used_at: float = NOW) -> Slot:
    return Slot(number, tokens, requester, lambda: SYSTEM, used_at)


def wanted(tokens: list[int], requester: str = "ann", system: list[int] = SYSTEM) -> Wanted:
    return Wanted(tokens, requester, lambda: system)


def test_the_common_length_is_that_of_the_shorter_one_or_up_to_the_first_difference() -> None:
    assert common_length([], [1]) == 0
    assert common_length([1, 2], [1, 2, 3]) == 2
    assert common_length([1, 2, 9], [1, 2, 3]) == 2


def test_the_owner_goes_on_from_anywhere() -> None:
    assert reusable(slot(CHAT), wanted([*CHAT, 20, 21, 22]), 2, True) == len(CHAT)
    assert reusable(slot(CHAT), wanted([*CHAT[:7], 30, 31]), 2, True) == 7


def test_another_requester_gets_the_common_system_message_and_nothing_more() -> None:
    assert reusable(slot(CHAT), wanted([*CHAT, 20, 21], "bob"), 2, True) == len(SYSTEM)
    # a system message that contains what the other one said does not open it
    guess = wanted([*CHAT, 20, 21], "bob", system=CHAT)
    assert reusable(slot(CHAT), guess, 2, True) == len(SYSTEM)
    assert reusable(slot(CHAT), wanted(CHAT, "bob", system=[1, 2]), 2, True) == 2


def test_enough_is_left_to_compute_for_the_logits_of_the_last_token() -> None:
    assert reusable(slot(CHAT), wanted(CHAT), 2, True) == len(CHAT) - 2
    assert reusable(slot(CHAT), wanted(CHAT[:1]), 2, True) == 0


def test_a_state_that_cannot_be_cut_is_kept_whole_or_not_at_all() -> None:
    assert reusable(slot(CHAT), wanted([*CHAT, 20, 21]), 2, False) == len(CHAT)
    assert reusable(slot(CHAT), wanted([*CHAT[:7], 20, 21]), 2, False) == 0


def test_tokens_computed_with_other_rotary_factors_are_worth_nothing() -> None:
    held = slot(CHAT)
    held.long_rope = True
    assert reusable(held, wanted([*CHAT, 20, 21]), 2, True) == 0
    long = Wanted([*CHAT, 20, 21], "ann", lambda: SYSTEM, long_rope=True)
    assert reusable(held, long, 2, True) == len(CHAT)


def choose(slots: list[Slot], prompt: Wanted, now: float = NOW) -> tuple[int, int]:
    chosen, kept = choose_slot(slots, prompt, now, 2, True)
    return chosen.number, kept


def test_a_conversation_goes_on_in_its_slot() -> None:
    slots = [slot([], 0), slot(CHAT, 1), slot([*SYSTEM, 50, 51], 2)]
    assert choose(slots, wanted([*CHAT, 20, 21])) == (1, len(CHAT))


def test_an_empty_slot_is_taken_before_a_conversation_is_forgotten() -> None:
    long = [*SYSTEM, *range(100, 400)]
    assert choose([slot(long, 0), slot([], 1)], wanted([*SYSTEM, 60, 61], "bob")) == (1, 0)


def test_a_short_remainder_gives_way_to_one_with_a_long_prefix_in_common() -> None:
    system = list(range(500, 900))
    held = Slot(0, [*system, 10, 11], "ann", lambda: system, NOW)
    other = Slot(1, [7, 8, 9], "ann", lambda: [7], NOW)
    assert choose([other, held], Wanted([*system, 60, 61], "bob", lambda: system)) == (
        0,
        len(system),
    )


def test_among_equals_the_one_that_rested_longest_goes() -> None:
    slots = [slot([7] * 9, 0, used_at=NOW - 1), slot([8] * 9, 1, used_at=NOW - 2)]
    assert choose(slots, wanted([5, 6, 7])) == (1, 0)


def test_an_old_long_conversation_does_not_outlive_fresh_short_ones_forever() -> None:
    old = slot([7] * 3000, 0, used_at=NOW)
    fresh = slot([8] * 200, 1, used_at=NOW)
    assert choose([old, fresh], wanted([5, 6, 7]))[0] == 1
    later = NOW + 5 * KEPT_HALF_LIFE_SECONDS
    fresh.used_at = later
    assert choose([old, fresh], wanted([5, 6, 7]), later)[0] == 0
