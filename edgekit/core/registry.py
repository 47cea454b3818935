"""Where a registry is, and what edgekit keeps there: addresses, tags and media types. Pure.

A registry speaks the OCI Distribution specification 1.1. Its names and tags have the letters that
the specification allows (section "Pulling manifests").
"""

from __future__ import annotations

import re
from ipaddress import ip_address

import msgspec

METADATA_TAG = "edgekit-metadata"  # moves with each publish, as timestamp.json does
METADATA_TYPE = "application/vnd.edgekit.metadata.v1+json"  # the artifact's, and its files'
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
MAX_ARTIFACT_BYTES = 256 << 10  # of the manifest of the metadata: 256 roots and three files

_ADDRESS = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?"
    r"/(?P<repository>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)\Z"
)
_NO_TAG = re.compile(r"[^A-Za-z0-9_.-]")
PORTS = {"https": 443, "http": 80}


class RegistryAddress(msgspec.Struct, frozen=True):
    """A repository of a registry: `[https://]HOST[:PORT]/REPOSITORY`."""

    scheme: str
    host: str
    port: int
    repository: str

    def __str__(self) -> str:
        return f"{self.origin}/{self.repository}"

    @property
    def origin(self) -> str:
        """Scheme, host and port, without a port that the scheme implies."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (
            "" if self.port == PORTS[self.scheme] else f":{self.port}"
        )


def parse_registry(text: str, *, plain_http: bool = False) -> RegistryAddress:
    """Read an address.

    Args:
        text: the address; without a scheme it is one of https.
        plain_http: whether http is taken for other hosts than this one.

    Raises:
        ValueError: says what is wrong with it.
    """
    found = _ADDRESS.match(text)
    port = int(found["port"] or 1) if found else 0
    if not found or not 1 <= port <= 65535 or len(found["repository"]) > 255:
        raise ValueError(
            f"registry {text!r} is not [https://]HOST[:PORT]/REPOSITORY, with a repository in "
            "small letters"
        )
    scheme, host = found["scheme"] or "https", found["host"].strip("[]")
    if scheme == "http" and not (plain_http or is_loopback(host)):
        raise ValueError(
            f"registry {text!r} is plain http: use https, or say plain_http = true where the "
            "network is yours (what a device runs is signed either way)"
        )
    port = int(found["port"]) if found["port"] else PORTS[scheme]
    return RegistryAddress(scheme, host, port, found["repository"])


def is_loopback(host: str) -> bool:
    """Whether a host is this machine; a name that has to be resolved is not."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def tag_of(name: str, version: str) -> str:
    """The tag of a bundle: for people, a device pulls by digest."""
    return _NO_TAG.sub("-", f"{name}-{version}").lstrip(".-")[:128] or "bundle"
