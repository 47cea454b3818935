"""Limits how often a requester may send, and spreads the times at which refused ones try again.

Pure: a token bucket for each of a bounded number of requesters.
"""

from __future__ import annotations

MAX_BUCKETS = 1000  # requesters; above that the fullest bucket is forgotten
MINUTE_US = 60_000_000
GOLDEN = 0.618033988749895  # multiples of it, modulo 1, lie far from each other and never meet


class Rate:
    """Token buckets that hold the messages of one minute, start full and fill evenly.

    A bucket is stored as the instant at which it will be full again (GCRA's theoretical arrival
    time). It counts whole microseconds, which makes the time to wait exact.

    Args:
        per_minute: messages that one requester may send; 0 sets no limit.
        remembered: for how many requesters a bucket is stored at most.
    """

    def __init__(self, per_minute: int, remembered: int = MAX_BUCKETS) -> None:
        self.per_minute = per_minute
        self._interval_us = -(-MINUTE_US // per_minute) if per_minute else 0
        self._burst_us = self._interval_us * per_minute
        self._remembered = remembered
        self._full_at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, requester: str, now: float) -> int:
        """Take one token from a requester's bucket.

        Returns:
            0, or the milliseconds until the bucket has a token again.
        """
        if not self._interval_us:
            return 0
        now_us = round(now * 1e6)
        full_at = max(now_us, self._full_at.get(requester, now_us)) + self._interval_us
        wait_us = full_at - self._burst_us - now_us
        if wait_us > 0:
            return -(-wait_us // 1000)
        self._full_at[requester] = full_at
        if len(self._full_at) > self._remembered:
            del self._full_at[min(self._full_at, key=self._full_at.__getitem__)]
        return 0


class Spread:
    """Times to wait for prompts that are refused together: they must not come back together."""

    def __init__(self) -> None:
        self._count = 0
        self._latest = -1e9  # monotonic seconds

    def wait_ms(self, least_ms: int, now: float) -> int:
        """Return how long the next refused prompt shall wait, in milliseconds.

        The first one waits `least_ms`, those that are refused within that time of each other up to
        twice as long, each another time.
        """
        alone = now - self._latest > least_ms / 1e3
        self._count, self._latest = (0 if alone else self._count + 1), now
        return least_ms + int(least_ms * (self._count * GOLDEN % 1))
