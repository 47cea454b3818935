"""The scheduler and the shares, over any prompts that come at any time."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.agent.serve.pipe import SLICE_TOKENS
from edgekit.agent.serve.worker.scheduler import (
    SHARED_SLICE_TOKENS,
    Load,
    next_work,
)
from edgekit.agent.serve.worker.shares import (
    CAUGHT_UP,
    FAVOUR,
    HALF_LIFE_SECONDS,
    MAX_REMEMBERED,
    MAX_WAIT_QUANTA,
    Shares,
)

SETTINGS = settings(max_examples=200, deadline=None, derandomize=True, database=None)
FEW = settings(SETTINGS, max_examples=30)
MIN_SLICE = 2
PROMPTS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 400), st.integers(1, 20), st.sampled_from("abc")),
    min_size=1,
    max_size=4,
)
COSTS = st.lists(st.sampled_from([0.0, 0.001, 0.004, 0.03, 5.0]), min_size=1, max_size=8)


# --- what a turn is ---------------------------------------------------------------------------
@SETTINGS
@given(prompts=PROMPTS, costs=COSTS, batched=st.booleans())
def test_every_prompt_is_fed_exactly_and_none_waits_for_more_than_so_many_turns(
    prompts: list[tuple[int, int, int, str]], costs: list[float], batched: bool
) -> None:
    """Prompts are (turn they come in, tokens, tokens of the answer, requester), each in its slot;
    the costs are of the turns."""
    remaining = {slot: tokens for slot, (_, tokens, _, _) in enumerate(prompts)}
    answers = {slot: count for slot, (_, _, count, _) in enumerate(prompts)}
    last = {slot: began for slot, (began, _, _, _) in enumerate(prompts)}
    owners = [owner for *_, owner in prompts]
    shares, now = Shares(), 0.0
    for quantum in range(1, 20_000):
        running = [s for s in remaining if prompts[s][0] < quantum and answers[s]]
        if not running:
            if quantum > 21:
                return
            continue
        loads = [Load(s, remaining[s], 0, owners[s], last[s]) for s in running]
        whose = shares.next({load.requester for load in loads})
        work = next_work(loads, MIN_SLICE, whose, batched)
        alone = {owners[s] for s in running} == {whose}
        decoding = [s for s in running if not remaining[s]]
        if alone or batched:
            assert list(work.step) == decoding  # every running answer gets its token
        else:
            assert {owners[s] for s in work.step} <= {whose}
            assert len(work.step) <= 1
        for slot in work.step:
            answers[slot] -= 1
            last[slot] = quantum
        if work.feed is not None:
            slot, count = work.feed
            assert owners[slot] == whose
            assert count <= (SHARED_SLICE_TOKENS if decoding else SLICE_TOKENS)
            assert count >= min(MIN_SLICE, remaining[slot])
            assert remaining[slot] - count != 1  # no slice of one token is left over
            remaining[slot] -= count
            last[slot] = quantum
        assert work.feed or work.step
        cost = costs[quantum % len(costs)]
        now += cost
        shares.charge(whose, cost, now, feeding=work.feed is not None)
        for slot in running:  # a turn of its requester's comes in time, in turn with its others
            others = len(prompts)
            assert quantum - last[slot] <= (MAX_WAIT_QUANTA + others) * others
    raise AssertionError(f"not done: {remaining} {answers}")


def test_a_requester_alone_has_a_slice_and_a_token_of_every_answer_in_each_turn() -> None:
    loads = [Load(0, 0, 0, "a", 9), Load(1, 300, 0, "a", 9), Load(2, 0, 0, "a", 8)]
    loads += [Load(3, 100, 0, "a", 8)]
    assert next_work(loads, MIN_SLICE, "a").step == (0, 2)
    assert next_work(loads, MIN_SLICE, "a").feed == (3, 25)  # whose last slice is longest ago
    assert next_work(loads[:3], MIN_SLICE, "a").feed == (1, 30)


def test_a_turn_among_several_is_one_token_of_the_answer_that_waits_longest() -> None:
    loads = [Load(0, 0, 0, "mallory", 3), Load(1, 0, 0, "victim", 1)]
    loads += [Load(2, 0, 0, "mallory", 2), Load(3, 300, 0, "mallory", 1)]
    assert next_work(loads, MIN_SLICE, "mallory").step == (2,)
    assert next_work(loads, MIN_SLICE, "mallory").feed == (3, 30)
    assert next_work(loads, MIN_SLICE, "victim").step == (1,)
    assert next_work(loads, MIN_SLICE, "victim").feed is None
    # one step for all, where it costs no more
    assert next_work(loads, MIN_SLICE, "victim", batched=True).step == (0, 1, 2)
    assert next_work(loads, MIN_SLICE, "victim", batched=True).feed is None


def test_what_must_go_in_at_once_does() -> None:
    for remaining, count in ((300, 257), (258, 258), (257, 257)):
        loads = [Load(0, remaining, at_least=257)]
        assert next_work(loads, MIN_SLICE, "").feed == (0, count)


# --- whose turn it is -------------------------------------------------------------------------
def spend(
    shares: Shares, costs: dict[str, float], seconds: float, feeding: str = ""
) -> dict[str, float]:
    """What each of these, always there, has used of so many seconds; the clock begins at 0.

    Their turns cost always the same; `feeding` has a prompt in them.
    """
    used: dict[str, float] = defaultdict(float)
    while (now := sum(used.values())) < seconds:
        name = shares.next(costs.keys())
        used[name] += costs[name]
        shares.charge(name, costs[name], now + costs[name], feeding=name == feeding)
    return used


@SETTINGS
@given(turns=st.lists(st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.floats(0, 10))))
def test_nobody_who_is_there_waits_for_more_than_so_many_turns(
    turns: list[tuple[set[str], float]],
) -> None:
    shares, waited, now = Shares(), Counter[str](), 0.0
    for here, cost in turns * 5:
        name = shares.next(here)
        assert name in here
        waited = Counter({other: waited[other] + 1 for other in here - {name}})
        assert max(waited.values(), default=0) <= MAX_WAIT_QUANTA + len(here)
        now += cost
        shares.charge(name, cost, now)


@FEW
@given(flooder=st.floats(0.002, 0.06), victim=st.floats(0.002, 0.06), before=st.floats(2, 30))
def test_who_comes_to_a_flood_has_at_least_three_quarters_of_the_time(
    flooder: float, victim: float, before: float
) -> None:
    """Whatever one turn of each costs, but for the turn that is under way at either end."""
    shares = Shares()
    spend(shares, {"flooder": flooder}, before)
    now, used = before, defaultdict[str, float](float)
    while used["victim"] < before / 4:
        name = shares.next({"flooder", "victim"})
        cost = flooder if name == "flooder" else victim
        now += cost
        used[name] += cost
        shares.charge(name, cost, now)
        if flooder < 8 * victim:  # else the bound on waiting counts
            assert used["flooder"] <= used["victim"] / FAVOUR + flooder + victim
    assert used["flooder"] > 0


@FEW
@given(
    costs=st.dictionaries(st.sampled_from("abcd"), st.floats(0.004, 0.03), min_size=2),
    feeding=st.sampled_from("abcd"),
)
def test_who_always_has_prompts_has_as_much_as_others_whatever_its_turns_cost(
    costs: dict[str, float], feeding: str
) -> None:
    """Prompts are favoured among equals, and only until that is unequal."""
    used = spend(Shares(), costs, 60.0, feeding)
    assert min(used.values()) > CAUGHT_UP * max(used.values()) - 0.1


def test_who_was_favoured_is_not_any_more_once_it_has_caught_up() -> None:
    shares = Shares()
    spend(shares, {"flooder": 0.01}, 300)
    used: dict[str, float] = defaultdict(float)
    shares_of = []
    now = 300.0
    for _ in range(12):
        before = used["victim"]
        until = now + 30
        while now < until:
            name = shares.next({"flooder", "victim"})
            now += 0.01
            used[name] += 0.01
            shares.charge(name, 0.01, now)
        shares_of.append((used["victim"] - before) / 30)
    assert abs(shares_of[0] - 0.75) < 0.01
    assert abs(shares_of[-1] - 0.5) < 0.06


def test_what_was_used_long_ago_is_forgotten_and_nothing_is_saved_up() -> None:
    shares = Shares()
    spend(shares, {"a": 0.01}, 60)
    now = 60 + 20 * HALF_LIFE_SECONDS
    shares.next({"b"})
    shares.charge("b", 1.0, now)
    used: Counter[str] = Counter()
    for _ in range(100):  # b has used more lately, though a had more in all
        name = shares.next({"a", "b"})
        used[name] += 1
        now += 0.001
        shares.charge(name, 0.001, now)
    assert used["a"] == 75
    shares.charge("b", 0.001, 1e9)  # an instant that is centuries later is none that overflows


def test_who_has_used_more_begins_nothing_before_the_others_have_gone_on() -> None:
    """What is computed before a prompt has its slot, if only to refuse it, is charged as well."""
    shares, now, used, turns = Shares(), 10.0, defaultdict[str, float](float), 0
    shares.charge("mallory", 10.0, now)
    for _ in range(1000):
        assert not shares.owes("victim")
        if not shares.owes("mallory"):
            now += 0.06
            used["mallory"] += 0.06
            shares.charge("mallory", 0.06, now)
            turns = 0
        turns += 1
        assert turns <= MAX_WAIT_QUANTA + 1
        assert shares.next({"victim"}, {"mallory"}) == "victim"
        now += 0.01
        used["victim"] += 0.01
        shares.charge("victim", 0.01, now)
    assert used["mallory"] <= used["victim"] / FAVOUR + 0.1
    shares.rest()
    assert not shares.owes("mallory")


def test_a_short_absence_forgives_no_debt() -> None:
    """Somebody with one prompt at a time, of long slices, is gone for a moment after each."""
    shares, used, now = Shares(), defaultdict[str, float](float), 0.0
    here = {"a", "b"}
    for _ in range(20_000):
        name = shares.next(here)
        cost = 0.03 if name == "b" else 0.004
        now += cost
        used[name] += cost
        shares.charge(name, cost, now)
        here = {"a"} if name == "b" else {"a", "b"}
    assert used["b"] < 1.1 * used["a"]


def test_of_many_requesters_those_that_used_least_are_forgotten() -> None:
    shares = Shares()
    for number in range(3 * MAX_REMEMBERED):
        name = f"r{number}"
        assert shares.next({name}) == name
        shares.charge(name, 100.0 if number == 0 else 0.01, float(number))
    assert len(shares) == MAX_REMEMBERED
    here = {"r0", "new"}
    turns: Counter[str] = Counter()
    for _ in range(40):
        name = shares.next(here)
        turns[name] += 1
        shares.charge(name, 0.01, 300.0)
    assert turns["new"] >= 30  # r0 is known still
