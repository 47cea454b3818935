"""What each verb of `python -m edgekit.agent` takes."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from edgekit.core.lease import LEASE_SECONDS


def _stage(parser: ArgumentParser) -> None:
    parser.add_argument("digest")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--offer",
        action="store_true",
        help="read a manifest and its metadata on stdin, say which blobs are missing",
    )
    how.add_argument(
        "--adopt", type=int, metavar="BYTES", help="verify and publish one transferred blob"
    )
    how.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="DIR",
        help="take everything from a folder that `edgekit export` wrote, without a network",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="with --offer: write nothing on this device"
    )


def _activate(parser: ArgumentParser) -> None:
    parser.add_argument("digest")
    parser.add_argument("--config", choices=["-"], help="read a new agent.toml on stdin")


def _lease(parser: ArgumentParser) -> None:
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--take", metavar="ID", help="for this rollout")
    whose.add_argument("--give", metavar="ID", help="if this rollout has it")
    parser.add_argument("--holder", default="-", metavar="USER@HOST")
    parser.add_argument("--about", default="-", metavar="WORD", help="like rollout-7")
    parser.add_argument("--seconds", type=float, default=LEASE_SECONDS)
    parser.add_argument("--take-over", action="store_true", help="break the lease of another one")


def _gc(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    parser.add_argument("--previous", action="store_true", help="give up the release to go back to")
    parser.add_argument("--pin", metavar="DIGEST", help="keep a release; collect nothing now")
    parser.add_argument("--unpin", metavar="DIGEST", help="let a pinned release go")


def _scrub(parser: ArgumentParser) -> None:
    parser.add_argument("--rate", type=int, default=16 << 20, help="bytes per second; 0: no limit")


def _logs(parser: ArgumentParser) -> None:
    from edgekit.agent.release.door.readlog import add_log_options  # noqa: PLC0415  no other verb's

    add_log_options(parser)


def _serve(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--trial", action="store_true", help="score the golden prompts first, report to trial.json"
    )


def _worker(parser: ArgumentParser) -> None:
    parser.add_argument("--descriptor", type=int, required=True)


def _measure(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--spinning", type=int, choices=[0, 1], required=True)


def _golden(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--context", type=int, required=True)


_OWN = {
    "stage": _stage,
    "activate": _activate,
    "lease": _lease,
    "gc": _gc,
    "scrub": _scrub,
    "logs": _logs,
    "serve": _serve,
    "worker": _worker,
    "measure": _measure,
    "golden": _golden,
}
_WITHOUT_ROOT = ("worker", "measure", "golden")


def add(verb: str, parser: ArgumentParser) -> None:
    """Add what a verb takes to its parser."""
    if verb not in _WITHOUT_ROOT:
        parser.add_argument("--root", type=Path, required=True, help="the device's folder")
    if verb in _OWN:
        _OWN[verb](parser)
