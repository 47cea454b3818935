"""The files of the page, read once: a name that is none of theirs finds nothing."""

from __future__ import annotations

import hashlib
from importlib import resources

import msgspec

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX = "index.html"
# No script and no style but the files of this origin; no text becomes markup (Trusted Types).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-cache",
}


class PageFile(msgspec.Struct, frozen=True):
    """One file with its headers; the `etag` is a digest of its bytes."""

    data: bytes
    etag: str
    headers: dict[str, str]


def load() -> dict[str, PageFile]:
    """All files of the page, by name."""
    found = {}
    for each in (resources.files(__package__) / "static").iterdir():
        kind = KINDS.get(each.name[each.name.rfind(".") :], "")
        if kind:
            data = each.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            found[each.name] = PageFile(data, etag, {**HEADERS, "content-type": kind, "etag": etag})
    return found
