"""When a requester sends again, asks, and gives up: on a clock that only the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from edgekit.client.asking import Asking, Do


@dataclass
class Clock:
    """Follows the rules in silence and notes what is done when."""

    asking: Asking
    now: float = 0.0
    draw: float = 0.5
    done: list[tuple[float, Do]] = field(default_factory=list)

    def run(self, until: float) -> list[tuple[float, Do]]:
        """Nothing comes until then; what was done since the last call."""
        self.done = []
        while True:
            do, wait_until = self.asking.next(self.now, self.draw)
            if do is not None:
                self.done.append((self.now, do))
            if do is Do.GIVE_UP or wait_until > until:
                self.now = until
                return self.done
            assert wait_until > self.now, "it would spin"
            self.now = wait_until


def test_in_silence_a_prompt_is_sent_four_times_with_growing_pauses() -> None:
    clock = Clock(Asking(deadline=300.0, device="pi"))
    assert clock.run(299) == [
        (0, Do.SEND),
        (16, Do.SEND),
        (33, Do.SEND),
        (52, Do.SEND),
        (67, Do.GIVE_UP),
    ]


@pytest.mark.parametrize(("draw", "second"), [(0.0, 15.8), (0.999999, 16.2)])
def test_the_pauses_are_spread_by_a_fifth(draw: float, second: float) -> None:
    clock = Clock(Asking(deadline=300.0), draw=draw)
    at, do = clock.run(20)[1]
    assert do is Do.SEND
    assert at == pytest.approx(second, abs=1e-5)


def test_the_deadline_ends_everything() -> None:
    assert Clock(Asking(deadline=5.0)).run(10) == [(0, Do.SEND), (5.0, Do.GIVE_UP)]
    clock = Clock(Asking(deadline=40.0))
    clock.run(1)
    clock.asking.reply("pi", 1.0)
    assert clock.run(100) == [(16.0, Do.QUERY), (31.0, Do.QUERY), (40.0, Do.GIVE_UP)]


def test_once_heard_it_is_asked_after_and_never_sent_again_and_the_device_is_known() -> None:
    clock = Clock(Asking(deadline=300.0))
    clock.run(20)
    clock.asking.reply("pi-7", 20.0)
    assert clock.asking.device == "pi-7"
    assert {do for _, do in clock.run(250)} == {Do.QUERY}


def test_deltas_put_the_question_off() -> None:
    clock = Clock(Asking(deadline=300.0))
    clock.run(1)
    for second in range(1, 100):
        clock.now = float(second)
        clock.asking.reply("pi", clock.now, delta=True)
        assert clock.run(second + 0.5) == []


def test_a_device_that_has_lost_the_prompt_gets_it_again_unless_a_delta_came() -> None:
    clock = Clock(Asking(deadline=300.0))
    clock.run(1)
    clock.asking.reply("pi", 1.0)
    clock.asking.unknown(2.0, 0.5)
    clock.now = 2.0
    assert clock.run(10) == [(3.0, Do.SEND)]
    clock.asking.reply("pi", 10.0, delta=True)
    assert clock.asking.unknown(11.0, 0.5)[0] is Do.GIVE_UP


def test_a_device_that_always_forgets_is_not_asked_for_ever() -> None:
    asking = Asking(deadline=3000.0)
    sent = 0
    for second in range(0, 1000, 100):
        clock = Clock(asking, now=float(second))
        sent += sum(do is Do.SEND for _, do in clock.run(second + 10))
        asking.reply("pi", second + 10.0)
        if asking.unknown(second + 20.0, 0.5)[0] is Do.GIVE_UP:
            break
    assert sent == 4


def test_of_two_devices_that_answer_only_the_first_s_deltas_and_anybody_s_final_count() -> None:
    asking = Asking(deadline=300.0)
    assert asking.concerns("a", "accepted")
    asking.reply("a", 1.0)
    assert asking.concerns("a", "delta")
    assert not asking.concerns("b", "delta")
    assert not asking.concerns("b", "error")
    assert asking.concerns("b", "final")


def test_why_it_is_given_up_is_what_happened() -> None:
    asking = Asking(deadline=300.0)
    assert "no reply" in asking.why
    asking.reply("a", 1.0, delta=True)
    assert "did not come in time" in asking.why
    asking.unknown(2.0, 0.5)
    assert "knows nothing" in asking.why
