"""The files whose tests take longest, the longest first: a run starts with them.

Two processes take a file each; a long one that comes last would leave the other idle. The first
column computes, the second waits: of files that run at once about one computes, for builds and
models in all of them would only wait for the CPU. What comes first needs no model, which takes
minutes to make on a fresh machine. `python -m tests` prints the slowest tests; put a file in its
place when it becomes one.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

TESTS = Path(__file__).parent

_COMPUTING = (
    "system/test_readme.py",
    "crash/test_matrix.py",
    "system/test_gate.py",
    "system/test_build.py",
    "system/test_build_disk_full.py",
    "system/test_container.py",
    "system/test_lowmem.py",
    "system/test_provenance.py",
    "system/test_gguf.py",
    "system/test_lint.py",
    "system/test_check.py",
    "system/test_matrix.py",
    "system/test_checkpoints.py",
    "system/test_vision.py",
    "system/test_wheel.py",
    "contract/test_decoder.py",
    "contract/test_page.py",
    "system/test_family.py",
    "system/test_chat_oracle.py",
    "property/test_tokens.py",
    "property/test_session_machine.py",
    "property/test_parsers.py",
    "system/test_build_verify.py",
    "property/test_sampling.py",
    "system/test_golden.py",
    "system/test_bundle.py",
    "system/test_plan.py",
    "system/test_build_hub.py",
)
_WAITING = (
    "system/test_enroll.py",
    "contract/test_openssh_oracle.py",
    "contract/test_supervisor.py",
    "contract/test_door.py",
    "system/test_fleet_trouble.py",
    "system/test_pull.py",
    "system/test_fleet_arm64.py",
    "system/test_quality_canary.py",
    "contract/test_rollout_hands.py",
    "system/test_chaos.py",
    "system/test_floods.py",
    "system/test_push_ssh.py",
    "system/test_enroll_push.py",
    "system/test_hardship.py",
    "system/test_bare_worker.py",
    "system/test_units.py",
    "crash/test_real.py",
    "fault/test_release_trial.py",
    "fault/test_release_disk_full.py",
    "contract/test_stolen_key.py",
    "system/test_self_healing.py",
    "system/test_hand_over.py",
    "system/test_push_plan.py",
    "scenario/test_real.py",
    "system/test_tuning.py",
    "system/test_formats_grow.py",
    "system/test_signing.py",
    "system/test_no_network.py",
    "system/test_disk.py",
    "contract/test_broker_restarts.py",
    "contract/test_broker.py",
    "system/test_abuse.py",
    "system/test_broker_limits.py",
    "contract/test_broker_terms.py",
    "system/test_outage.py",
    "system/test_prompt.py",
    "system/test_protocol.py",
    "system/test_health.py",
    "contract/test_ssh_session.py",
    "contract/test_ssh_link.py",
    "system/test_tls.py",
    "system/test_signals.py",
    "system/test_acl.py",
    "system/test_progress.py",
    "system/test_strangers.py",
    "system/test_ask.py",
    "system/test_refusals.py",
)
LONGEST = tuple(
    name
    for turn in zip_longest(_COMPUTING, _WAITING[::2], _WAITING[1::2])
    for name in turn
    if name is not None
)


def missing() -> list[str]:
    """Names in the table that are no file any more."""
    return [name for name in LONGEST if not (TESTS / name).is_file()]


def rank(path: Path) -> int:
    """The place of a test file in a run."""
    name = path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)
