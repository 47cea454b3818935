"""How often each requester may ask: a token bucket for each, for a bounded number of them. Pure."""

from __future__ import annotations

MAX_BUCKETS = 1000  # requesters; of more the one whose bucket is fullest is forgotten
MINUTE_US = 60_000_000


class Rate:
    """Buckets that hold a minute's messages, full at first, and fill evenly.

    A bucket is kept as the instant at which it will be full again (GCRA's theoretical arrival
    time), in whole microseconds, so that the time to wait is exact.

    Args:
        per_minute: messages of one requester; 0 is no limit.
        remembered: how many requesters are kept at most.
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
        """Take one from a requester's bucket: 0, or the milliseconds until there is one."""
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
