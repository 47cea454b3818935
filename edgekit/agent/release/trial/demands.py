"""What a trial asks of a release's report, and how often an unproven release is tried. Pure."""

from __future__ import annotations

from edgekit.agent.release.trial.events import Demands
from edgekit.core.golden import TrialReport, passes

# Far below every device that edgekit runs on: without a floor of the operator's only a model that
# is stuck is too slow. A prompt of 100 tokens takes a quarter of an hour at this rate.
LEAST_TOKENS_PER_SECOND = 0.1
CRASH_LIMIT = 5  # crashes in a row, each soon after a start: a good release goes back to `previous`
STEADY_SECONDS = 60.0  # an agent that lived this long did not crash at its start
RETRY_SECONDS = (60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


def unfit(demands: Demands, report: TrialReport, slots: int | None = None) -> str:
    """Why a release fails its trial, with the measure and both numbers; empty if it does not.

    Args:
        demands: what is asked.
        report: what the agent says.
        slots: of the agent, once it answers. A cap that depends on them holds from then on.
    """
    score = report.score
    if score is not None:
        if demands.golden is not None and (why := passes(demands.golden, score)):
            return why
        floor = demands.min_tokens_per_second or LEAST_TOKENS_PER_SECOND
        if 0 < score.tokens_per_second < floor:  # 0: no step was measured
            return f"it makes {score.tokens_per_second:.3g} tokens/s, the floor is {floor:g}"
    cap = demands.max_rss_bytes
    if cap and demands.slot_bytes:
        cap = 0 if slots is None else cap + (slots - 1) * demands.slot_bytes
    if 0 < cap < report.rss_bytes:
        return (
            f"agent and worker use {report.rss_bytes / 1e6:,.1f} MB of memory, "
            f"the cap is {cap / 1e6:,.1f} MB"
        )
    return ""


def lacks(demands: Demands, report: TrialReport, *, answers: bool) -> str:
    """What a release has yet to show before it soaks; empty if it has shown everything."""
    if demands.golden is not None and report.score is None:
        return "no score of its golden prompts"
    if demands.min_tokens_per_second and report.score is None:
        return "no measure of its tokens/s"
    return "" if answers else "no answer"


def reaches_all_but_the_broker(demands: Demands, report: TrialReport) -> bool:
    """Whether the model is loaded and fit, and only the connection to the broker is missing."""
    scored = demands.golden is None or report.score is not None
    return report.loaded and scored and not report.connected and not unfit(demands, report)


def retry_seconds(tries: int) -> float:
    """How long an unproven release waits after its `tries`-th trial."""
    return RETRY_SECONDS[min(max(tries, 1), len(RETRY_SECONDS)) - 1]
