"""The verbs of the command line, and what a shell may complete after each. Imports nothing."""

from __future__ import annotations

# A command imports its own verb's module alone: all of them take longer than most verbs run.
VERBS = {
    "init": "init:init",
    "build": "model.build:build",
    "check": "model.check:check",
    "pack": "release.bundle:pack",
    "inspect": "release.bundle:inspect",
    "sign": "release.sign:sign",
    "verify": "release.sign:verify",
    "key": "release.key:app",
    "export": "release.carry:export",
    "import": "release.carry:import_",
    "enroll": "device.enroll:enroll",
    "remove": "device.enroll:remove",
    "publish": "release.publish:publish",
    "desired": "release.publish:desired",
    "push": "rollout.push:push",
    "fleet": "device.check_fleet:app",
    "state": "device.fleet:state",
    "status": "rollout.show:status",
    "rollouts": "rollout.show:rollouts",
    "pause": "rollout.orders:pause",
    "resume": "rollout.further:resume",
    "abort": "rollout.orders:abort",
    "rollback": "rollout.further:rollback",
    "report": "rollout.report:report",
    "logs": "device.logs:logs",
    "support-bundle": "device.support:support_bundle",
    "stop": "device.fleet:stop",
    "start": "device.fleet:start",
    "prune": "device.disk:prune",
    "scrub": "device.disk:scrub",
    "tune": "device.disk:tune",
    "ask": "talk.ask:ask",
    "chat": "talk.chat.verb:chat",
    "devices": "talk.ask:devices",
    "top": "talk.top.verb:top",
    "rules": "talk.rules:app",
    "forget": "device.forget:forget",
    "home-assistant": "talk.homeassistant:home_assistant",
    "broker": "talk.broker:app",
    "gateway": "talk.gateway:app",
    "page": "talk.page:page",
    "doctor": "doctor.doctor:doctor",
    "man": "man:man",
    "demo": "demo:demo",
}

DEVICES = frozenset(
    (
        *("enroll", "remove", "push", "state", "logs", "support-bundle", "stop", "start", "prune"),
        *("scrub", "tune", "ask", "chat", "top", "forget", "rollback", "home-assistant"),
    )
)
"""Verbs whose words are devices, or also groups."""

ONE_DEVICE = frozenset(
    (
        *("state", "logs", "support-bundle", "stop", "start", "prune"),
        *("scrub", "tune", "chat"),
    )
)
"""Those of them whose word is one device, and no group."""

BUNDLES = frozenset(("inspect", "sign", "verify", "export", "publish"))
"""Verbs whose first word is a bundle."""

ROLLOUTS = frozenset(("status", "pause", "resume", "abort", "report"))
"""Verbs whose word is the number of a rollout."""
