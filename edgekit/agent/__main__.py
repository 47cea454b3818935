"""`python -m edgekit.agent`: the device's verbs. Each prints one JSON object, also for an error.

The parser is argparse, because devices have no typer. A push calls the verbs over its channel; a
user on the device can call them too.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from edgekit.agent import arguments
from edgekit.agent.release.root import Root
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.lease import LeaseAnswer, LeaseWish
from edgekit.errors import EdgekitError, UsageError

DISK_STEPS = {
    errno.EROFS: "the device's disk takes no writes any more: look at `dmesg` there, replace the "
    "card or mount it for writing, then run it again; what runs goes on",
    errno.EIO: "the device's disk fails: look at `dmesg` there and replace it, then push again",
    errno.ENOSPC: "free some space on the device (`edgekit prune DEVICE`), then run it again",
}
LOOK_STEP = "look at this path on the device: what lies there, its rights, the space of the disk"
# their errors go to the log as text
PROCESSES = ("boot", "door", "supervise", "serve", "worker", "upkeep", "update")


def _stage(args: argparse.Namespace) -> object:
    sys.dont_write_bytecode = args.dry_run  # it writes nothing at all
    from edgekit.agent.release.refusal import on_record
    from edgekit.agent.release.staging.offered import foresee_offer, read_offer, take_offer
    from edgekit.agent.release.staging.permission import refuse_links
    from edgekit.agent.release.staging.stage import stage

    root = Root(args.root)
    digest = Digest.parse(args.digest)
    refuse_links(root)
    if args.dry_run:
        if not args.offer:
            raise UsageError("--dry-run stands beside --offer alone")
        return foresee_offer(root, digest, read_offer(sys.stdin.buffer))
    with on_record(root, digest, offered=args.offer or args.source is not None):
        if args.offer:
            from edgekit.agent.release.again import confirm

            return take_offer(root, digest, read_offer(sys.stdin.buffer), confirm)
        with root.updating():
            if args.source is not None:
                from edgekit.agent.release.staging.carried import stage_from

                return stage_from(root, digest, args.source)
            if args.adopt is not None:
                root.store.adopt(digest, args.adopt)
                return {"adopted": digest}
            return {"release": digest, "folder": str(stage(root, digest))}


def _activate(args: argparse.Namespace) -> object:
    from edgekit.agent.release.activate import activate
    from edgekit.agent.release.supervisor.choose import supervisor_of

    root = Root(args.root)
    config = sys.stdin.buffer.read() if args.config == "-" else None
    return _switch(
        root, lambda: activate(root, Digest.parse(args.digest), supervisor_of(root), config)
    )


def _rollback(args: argparse.Namespace) -> object:
    from edgekit.agent.release.activate import rollback
    from edgekit.agent.release.supervisor.choose import supervisor_of

    root = Root(args.root)
    return _switch(root, lambda: rollback(root, supervisor_of(root)))


def _switch(root: Root, act: Callable[[], dict[str, Any]]) -> object:
    """Act for the session that holds the device; its lease ends with the trial."""
    from edgekit.agent.release import holder

    with root.updating():
        holder.check(root)
        answer: dict[str, Any] = {}
        try:
            answer = act()
        finally:
            holder.settle(root, answer.get("soak_seconds"))
    return answer


def _state(args: argparse.Namespace) -> object:
    sys.dont_write_bytecode = True  # it reports, and leaves a device as it is
    from edgekit.agent.release.describe import describe
    from edgekit.agent.release.supervisor.choose import supervisor_of

    root = Root(args.root)
    root.create()
    return describe(root, supervisor_of(root))


def _stop(args: argparse.Namespace) -> object:
    from edgekit.agent.release.stopped import stop
    from edgekit.agent.release.supervisor.choose import supervisor_of

    root = Root(args.root)
    with root.updating():
        return stop(root, supervisor_of(root))


def _start(args: argparse.Namespace) -> object:
    from edgekit.agent.release.stopped import start
    from edgekit.agent.release.supervisor.choose import supervisor_of

    root = Root(args.root)
    with root.updating():
        return start(root, supervisor_of(root))


def _lease(args: argparse.Namespace) -> object:
    from edgekit.agent.release import holder

    root = Root(args.root)
    root.create()
    if args.give:
        answer = holder.give(root, args.give)
    elif args.take:
        told = {"id": args.take, "seconds": args.seconds, "take_over": args.take_over}
        try:
            wish = msgspec.convert(told | {"holder": args.holder, "about": args.about}, LeaseWish)
        except msgspec.ValidationError as error:
            raise UsageError("the lease cannot be taken in these words", str(error)) from None
        answer = holder.take(root, wish)
    else:
        answer = LeaseAnswer(False, holder.held(root))
    return msgspec.to_builtins(answer)


def _gc(args: argparse.Namespace) -> object:
    from edgekit.agent.release import lease
    from edgekit.agent.release.space import collect

    root = Root(args.root)
    with root.updating():
        if lease.is_held(root):
            raise EdgekitError(
                "a push to this device is at work",
                "what it has sent is not to be collected",
                "wait for it to end, then run it again",
            )
        if args.pin:
            return {"pinned": collect.pin(root, args.pin, True)}
        if args.unpin:
            return {"unpinned": collect.pin(root, args.unpin, False)}
        given = root.linked(root.previous) if args.previous else None
        if args.dry_run:
            return collect.find(root, without=given).to_dict(root)
        if args.previous:
            collect.give_up_previous(root)
        return collect.collect(root).to_dict(root)


def _scrub(args: argparse.Namespace) -> object:
    from edgekit.agent.release.upkeep.quiet import be_quiet
    from edgekit.agent.release.upkeep.scrub import scrub

    be_quiet()
    done = scrub(Root(args.root), args.rate)
    found = [each for each in done.found if each.at >= done.started]
    return msgspec.to_builtins(msgspec.structs.replace(done, found=found), enc_hook=str)


def _upkeep(args: argparse.Namespace) -> None:
    from edgekit.agent.release.upkeep.keep import keep_up

    keep_up(Root(args.root))


def _update(args: argparse.Namespace) -> None:
    from edgekit.agent.release.supervisor.choose import supervisor_of
    from edgekit.agent.release.update import look

    root = Root(args.root)
    look(root, supervisor_of(root))


def _logs(args: argparse.Namespace) -> object:
    from edgekit.agent.release.door.readlog import read_for_verb

    return read_for_verb(args)


def _tune(args: argparse.Namespace) -> object:
    from edgekit.agent.release.retune import retune

    return retune(Root(args.root))


def _supervise(args: argparse.Namespace) -> None:
    from edgekit.agent.release.supervisor.watch import Watch

    Watch(Root(args.root)).run()


def _boot(args: argparse.Namespace) -> None:
    from edgekit.agent.release.log import write_to_log
    from edgekit.agent.release.stopped import since
    from edgekit.agent.release.supervisor.become import become

    root = Root(args.root)
    root.start_file.unlink(missing_ok=True)  # a killed verb's would start the unit for ever
    if since(root) is not None:
        sys.stderr.write("boot: an operator stopped this device; `edgekit start` starts it\n")
        return
    if "JOURNAL_STREAM" in os.environ:  # systemd's; why a trial failed is read from the log
        sys.stderr.write(f"boot: the agent's log is {root.log_file}\n")
        write_to_log(root)
    become(root)


def _door(args: argparse.Namespace) -> None:
    from edgekit.agent.release.door.serve import Door

    Door(Root(args.root)).serve()


def _serve(args: argparse.Namespace) -> None:
    import logging

    from edgekit.agent.serve.loop.canaryfiles import CanaryFiles
    from edgekit.agent.serve.loop.desiredfile import DesiredFile
    from edgekit.agent.serve.loop.notify import Notifier
    from edgekit.agent.serve.loop.service import Service
    from edgekit.agent.serve.loop.trialfile import TrialFile
    from edgekit.core.config import parse_agent_config
    from edgekit.core.manifest import parse_config

    root = Root(args.root)
    release = root.linked(root.current)
    if release is None:
        raise EdgekitError("no release is active on this device", next_step="push one to it")
    folder = root.release(release)
    golden = str(folder / layout.GOLDEN) if (folder / layout.GOLDEN).exists() else ""
    before = root.way_back(root.previous)
    previous = root.release(before) if before is not None and before != release else None
    config = parse_agent_config(root.agent_config.read_bytes())
    if config.broker.warning:
        logging.getLogger(__name__).warning("%s", config.broker.warning)
    Service(
        config,
        parse_config((folder / layout.BUNDLE_CONFIG).read_bytes()),
        str(release),
        folder / layout.MODEL,
        root.ready_file,
        root.tuning_file,
        (folder / layout.AGENT).readlink().name[:12],
        root.journal,
        Notifier(os.environ),
        TrialFile(root.path / layout.TRIAL_FILE) if args.trial else None,
        golden if args.trial else "",
        canary=CanaryFiles(root.path, folder, previous, config.canary_samples),
        desired=DesiredFile(config.device, config.pull, root.desired_file, root.update_file),
    ).run()


def _worker(args: argparse.Namespace) -> None:
    from edgekit.agent.serve.worker.main import serve_model

    serve_model(args.descriptor)


def _golden(args: argparse.Namespace) -> object:
    from edgekit.agent.serve.worker.golden import record_folder

    return msgspec.to_builtins(record_folder(args.model, args.context))


def _measure(args: argparse.Namespace) -> object:
    from edgekit.agent.serve.worker.tune import time_setting

    return msgspec.to_builtins(time_setting(args.model, args.threads, bool(args.spinning)))


_VERBS: dict[str, tuple[Callable[[argparse.Namespace], object], str]] = {
    "stage": (_stage, "verify a release's blobs and publish its folder"),
    "activate": (_activate, "make a staged release the running one"),
    "rollback": (_rollback, "go back to the previous release"),
    "lease": (_lease, "say who holds this device, take it, or give it back"),
    "state": (_state, "report what this device runs and since when"),
    "stop": (_stop, "drain and stop the agent; it stays down until `start` or an activation"),
    "start": (_start, "start the agent of a stopped device"),
    "gc": (_gc, "remove releases and leftovers that this device does not need"),
    "scrub": (_scrub, "hash what is kept, at low priority, and mend what can be"),
    "logs": (_logs, "print lines of this device's log"),
    "tune": (_tune, "forget the measured threads of `current`, and measure them again"),
    "upkeep": (_upkeep, "collect and scrub what is due (started by supervise)"),
    "update": (_update, "do what the desired state asks for (started by supervise)"),
    "serve": (_serve, "answer prompts until SIGTERM"),
    "supervise": (_supervise, "keep `serve` running (started by activate)"),
    "boot": (_boot, "become the supervisor of `current` (started by systemd or cron)"),
    "door": (_door, "serve one push over a socket (started by systemd)"),
    "worker": (_worker, "run the model in its own process (started by serve)"),
    "measure": (_measure, "measure one setting of the runtime (started by worker)"),
    "golden": (_golden, "record a model's golden prompts (started by pack)"),
}


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Of a given width: argparse makes one for each word, and imports shutil for a terminal's."""
    return argparse.HelpFormatter(prog, width=98)


def _parser(asked: str) -> argparse.ArgumentParser:
    """Of that verb alone, for each one costs time; of every verb, unless it is one of them."""
    parser = argparse.ArgumentParser(
        prog="python -m edgekit.agent",
        description="The edgekit agent of this device.",
        epilog="example: python -m edgekit.agent state --root ~/.local/share/edgekit",
        formatter_class=_formatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, prog=parser.prog)
    for name in (asked,) if asked in _VERBS else _VERBS:
        run, text = _VERBS[name]
        sub = verbs.add_parser(name, help=text, description=text, formatter_class=_formatter)
        sub.set_defaults(run=run)
        arguments.add(name, sub)
    return parser


def _end(verb: str, error: EdgekitError) -> NoReturn:
    """Exit with an error: on standard output, or in the log where that has another meaning."""
    if verb in PROCESSES:
        sys.stderr.write(f"{verb}: {error}\n")
    else:
        print(json.dumps(error.to_dict()), flush=True)
    sys.exit(error.exit_code)


def _log() -> None:
    import logging  # a short verb logs nothing, and would pay for the import

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
    )


def stay_in_this_release() -> None:
    """Import the rest from where the links lead now: `current` may move while a verb runs."""
    sys.path[:] = [os.path.realpath(path) if path else path for path in sys.path]
    for name, module in sys.modules.copy().items():
        if name.partition(".")[0] == "edgekit" and hasattr(module, "__path__"):
            module.__path__ = [os.path.realpath(path) for path in module.__path__]


def main() -> NoReturn:
    """Run one verb and exit with a code of `edgekit.errors`."""
    stay_in_this_release()
    args = _parser(next(iter(sys.argv[1:]), "")).parse_args()
    os.umask(os.umask(0o022) | 0o022)  # no other account writes to what this one runs
    if args.verb in (*PROCESSES, "measure", "golden"):
        _log()
    try:
        result = args.run(args)
    except EdgekitError as error:
        _end(args.verb, error)
    except OSError as error:
        step = DISK_STEPS.get(error.errno or 0, LOOK_STEP)
        _end(args.verb, EdgekitError(f"{args.verb} failed", str(error), step))
    if result is not None:
        print(json.dumps(result), flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
