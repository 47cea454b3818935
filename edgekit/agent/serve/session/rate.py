"""Limits how often a requester may send: a token bucket for each of a bounded number. Pure."""

from __future__ import annotations

MAX_BUCKETS = 1000  # requesters; above that the fullest bucket is forgotten
MINUTE_US = 60_000_000


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
