"""The configurations in which OpenSSH and edgekit have to agree, as values.

`@PORT@`, `@ED@` and so on are the words of `openssh_world`; `@DIR@` is the case's own folder.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.openssh_world import hashed

HERE = "[127.0.0.1]:@PORT@"
KNOWN = f"{HERE} @ED@\n"
TO = "Host box\n  HostName 127.0.0.1\n  Port @PORT@\n"
AS = "  IdentityFile @ID_FILE@\n"
BY = "  UserKnownHostsFile @DIR@/known\n"
BOX = TO + AS + BY


@dataclass(frozen=True)
class Case:
    """One configuration; `refused` is what edgekit names where OpenSSH goes on and it does not."""

    name: str
    config: str = BOX
    known: str = KNOWN
    destination: str = "box"
    ssh: tuple[str, ...] = ()  # the same destination in OpenSSH's words; empty: `destination`
    files: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path, Path], None] | None = None  # case's folder, world's folder
    refused: str = ""
    agent: bool = False


def _hashed_known(folder: Path, world: Path) -> None:
    del world
    path = folder / "known"
    names, *rest = path.read_text().split()
    path.write_text(" ".join([hashed(names), *rest]) + "\n")


KNOWN_HOSTS = [
    Case("the host and its key"),
    Case("a hashed name", prepare=_hashed_known),
    Case("a hash that is damaged, then the name", known=f"|1|xx|yy @ED@\n{KNOWN}"),
    Case("a star for every host", known="* @ED@\n"),
    Case("a pattern with a star", known="[127.0.*]:@PORT@ @ED@\n"),
    Case("a pattern with question marks", known="[127.?.?.?]:* @ED@\n"),
    Case("a pattern that asks for more", known="[127.??.0.1]:* @ED@\n"),
    Case("a negation of this host", known=f"*,!{HERE} @ED@\n"),
    Case("a negation before the pattern", known=f"!{HERE},* @ED@\n"),
    Case("a negation of another host", known="!other,* @ED@\n"),
    Case("a negation alone", known="!other @ED@\n"),
    Case("several names", known=f"a,b.example,{HERE},c @ED@\n"),
    Case("brackets are no set of letters", known="[1]27.0.0.1 @ED@\n"),
    Case("the bare name for another port", known="127.0.0.1 @ED@\n"),
    Case("the bare name with another key", known="127.0.0.1 @OTHER_ED@\n"),
    Case("this port with another key, the bare name with the key",
         known=f"{HERE} @OTHER_ED@\n127.0.0.1 @ED@\n"),
    Case("another port", known="[127.0.0.1]:1 @ED@\n"),
    Case("a name in capitals", TO.replace("127.0.0.1", "LocalHost") + "  AddressFamily inet\n"
         + AS + BY, "[LOCALHOST]:@PORT@ @ED@\n"),
    Case("no line at all", known=""),
    Case("another key", known=f"{HERE} @OTHER_ED@\n"),
    Case("another key, then the key", known=f"{HERE} @OTHER_ED@\n{KNOWN}"),
    Case("a key of another type", known=f"{HERE} @OTHER_RSA@\n"),
    Case("only the RSA key", known=f"{HERE} @RSA@\n"),
    Case("only the ECDSA key", known=f"{HERE} @ECDSA@\n"),
    Case("all three keys", known=f"{HERE} @RSA@\n{HERE} @ECDSA@\n{KNOWN}"),
    Case("@revoked for this key", known=f"@revoked * @ED@\n{KNOWN}"),
    Case("@revoked after the key", known=f"{KNOWN}@revoked {HERE} @ED@\n"),
    Case("@revoked for another key", known=f"@revoked * @OTHER_ED@\n{KNOWN}"),
    Case("@revoked for another host", known=f"@revoked other @ED@\n{KNOWN}"),
    Case("@revoked for the bare name", known=f"@revoked 127.0.0.1 @ED@\n{KNOWN}"),
    Case("@cert-authority beside the key", known=f"@cert-authority * @CA@\n{KNOWN}"),
    Case("@cert-authority alone, no certificate", known="@cert-authority * @CA@\n"),
    Case("@cert-authority with the host's own key", known="@cert-authority * @ED@\n"),
    Case("an unknown marker", known=f"@trusted {HERE} @ED@\n"),
    Case("an unknown marker, then the key", known=f"@trusted * @OTHER_ED@\n{KNOWN}"),
    Case("two markers", known=f"@revoked @cert-authority * @ED@\n{KNOWN}"),
    Case("a marker and a tab", known=f"@revoked\t* @ED@\n{KNOWN}"),
    Case("a damaged key, then the key", known=f"{HERE} ssh-ed25519 AAAA!!!\n{KNOWN}"),
    Case("a cut key, then the key",
         known=f"{HERE} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB\n{KNOWN}"),
    Case("a damaged key alone", known=f"{HERE} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB\n"),
    Case("a line of one word", known=f"{HERE}\n{KNOWN}"),
    Case("a line of two words", known=f"{HERE} ssh-ed25519\n{KNOWN}"),
    Case("a type that is not the key's",
         known=f"{HERE} ssh-rsa @ED@\n{HERE} ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIB\n{KNOWN}"),
    Case("a type that nobody knows", known=f"{HERE} ssh-new AAAAB3NzaC1uZXc=\n{KNOWN}"),
    Case("an old key with bits", known=f"{HERE} 1024 35 1234567\n{KNOWN}"),
    Case("comments, blanks and tabs", known=f"# x\n\n \t\n  {HERE}\t@ED@ a comment\n"),
    Case("several blanks", known=f"{HERE}   @ED@   c\n"),
    Case("lines of DOS", known=f"# x\r\n{HERE} @ED@\r\n"),
    Case("a comment in Latin-1", known=f"# caf\xe9\n{HERE} @ED@ \xff\xfe\n"),
    Case("no final newline", known=f"{HERE} @ED@"),
    Case("a damaged @revoked", known=f"@revoked * ssh-ed25519 AAAA\n{KNOWN}", refused="@revoked"),
]  # fmt: skip

FILES = [
    Case("two user files, the second knows",
         TO + AS + "  UserKnownHostsFile @DIR@/none @DIR@/known\n"),
    Case("two user files, the second revokes",
         TO + AS + "  UserKnownHostsFile @DIR@/known @DIR@/second\n",
         files={"second": "@revoked * @ED@\n"}),
    Case("a user file with a blank", TO + AS + '  UserKnownHostsFile "@DIR@/two words"\n',
         files={"two words": KNOWN}),
    Case("user files none, a global file",
         TO + AS + "  UserKnownHostsFile none\n  GlobalKnownHostsFile @DIR@/known\n"),
    Case("the global file revokes", BOX + "  GlobalKnownHostsFile @DIR@/second\n",
         files={"second": "@revoked * @ED@\n"}),
    Case("user and global files none",
         TO + AS + "  UserKnownHostsFile none\n  GlobalKnownHostsFile none\n"),
    Case("/dev/null", TO + AS + "  UserKnownHostsFile /dev/null\n"),
    Case("a folder for a file", TO + AS + "  UserKnownHostsFile @DIR@ @DIR@/known\n"),
    Case("%-tokens in a file name", TO + AS + "  UserKnownHostsFile @DIR@/%n-%h-%p-%r%%\n",
         files={"box-127.0.0.1-@PORT@-@USER@%": KNOWN}),
    Case("a token that nobody knows", BOX.replace("known\n", "known%Z\n")),
    Case("a variable in a file name", TO + AS + "  UserKnownHostsFile ${MINE}/known\n"),
    Case("a variable that is not set", TO + AS + "  UserKnownHostsFile ${NO_SUCH}/known\n"),
    Case("a file of the home", TO + AS + "  UserKnownHostsFile ~/mine\n",
         files={"home/mine": KNOWN}),
    Case("the key named by its %-tokens", TO + BY + "  IdentityFile @FOLDER@/i%%d\n"),
    Case("a key by the remote user", TO + BY + "  IdentityFile @DIR@/%r-%h\n",
         prepare=lambda folder, world: _copy_as(folder, world)),
    Case("HostKeyAlias", BOX + "  HostKeyAlias other.example\n", "other.example @ED@\n"),
    Case("HostKeyAlias, known by address alone", BOX + "  HostKeyAlias other.example\n"),
    Case("HostKeyAlias has no port", BOX + "  HostKeyAlias other.example\n",
         "[other.example]:@PORT@ @ED@\n"),
    Case("KnownHostsCommand", TO + AS + "  UserKnownHostsFile none\n"
         "  KnownHostsCommand /bin/cat @DIR@/known\n"),
    Case("KnownHostsCommand gets its tokens", TO + AS + "  UserKnownHostsFile none\n"
         "  KnownHostsCommand @DIR@/keys %H %I %t %f %K %n\n",
         files={"keys": '#!/bin/sh\necho "$@" >>@DIR@/log\necho "$1 @ED@"\n'
                'test "$2" = ORDER || test "$3 $5" = "@ED@"\n'}),
    Case("KnownHostsCommand revokes", BOX + "  KnownHostsCommand /bin/cat @DIR@/second\n",
         files={"second": "@revoked * @ED@\n"}),
    Case("KnownHostsCommand fails", BOX + "  KnownHostsCommand /bin/false\n"),
    Case("RevokedHostKeys has the key", BOX + "  RevokedHostKeys @DIR@/revoked\n",
         files={"revoked": "# bad\n@ED@ comment\n"}),
    Case("RevokedHostKeys has another", BOX + "  RevokedHostKeys @DIR@/revoked\n",
         files={"revoked": "@OTHER_ED@\n"}),
    Case("RevokedHostKeys is missing", BOX + "  RevokedHostKeys @DIR@/nothing\n"),
    Case("RevokedHostKeys is empty", BOX + "  RevokedHostKeys @DIR@/revoked\n",
         files={"revoked": ""}),
    Case("a KRL with the key", BOX + "  RevokedHostKeys @DIR@/krl\n",
         prepare=lambda folder, world: _krl(folder, world / "ed.pub")),
    Case("a KRL with another key", BOX + "  RevokedHostKeys @DIR@/krl\n",
         prepare=lambda folder, world: _krl(folder, world / "other_ed.pub")),
]  # fmt: skip

STRICTNESS = [
    Case("strict yes, known", BOX + "  StrictHostKeyChecking yes\n"),
    Case("strict yes, unknown", BOX + "  StrictHostKeyChecking yes\n", ""),
    Case("strict no, known", BOX + "  StrictHostKeyChecking no\n"),
    Case("strict no, unknown", BOX + "  StrictHostKeyChecking no\n", "",
         refused="StrictHostKeyChecking no"),
    Case("strict off, changed", BOX + "  StrictHostKeyChecking off\n", f"{HERE} @OTHER_ED@\n",
         refused="StrictHostKeyChecking no"),
    Case("strict no, revoked", BOX + "  StrictHostKeyChecking no\n", f"@revoked * @ED@\n{KNOWN}",
         refused="revoked"),
    Case("accept-new, unknown", BOX + "  StrictHostKeyChecking accept-new\n", "",
         refused="StrictHostKeyChecking accept-new"),
    Case("accept-new, changed", BOX + "  StrictHostKeyChecking accept-new\n",
         f"{HERE} @OTHER_ED@\n"),
    Case("accept-new, known by another type", BOX + "  StrictHostKeyChecking accept-new\n",
         f"{HERE} @OTHER_RSA@\n"),
    Case("CheckHostIP", BOX + "  CheckHostIP yes\n"),
    Case("no authentication of localhost", BOX + "  NoHostAuthenticationForLocalhost yes\n", "",
         refused="NoHostAuthenticationForLocalhost"),
    Case("HostKeyAlgorithms of the known key", BOX + "  HostKeyAlgorithms ecdsa-sha2-nistp256\n",
         f"{HERE} @ECDSA@\n"),
    Case("HostKeyAlgorithms of an unknown key", BOX + "  HostKeyAlgorithms rsa-sha2-512\n"),
    Case("HostKeyAlgorithms in an own order", BOX
         + "  HostKeyAlgorithms rsa-sha2-256,ssh-ed25519\n", f"{HERE} @RSA@\n{KNOWN}"),
    Case("HostKeyAlgorithms in an own order, the first unknown", BOX
         + "  HostKeyAlgorithms rsa-sha2-256,ssh-ed25519\n"),
    Case("HostKeyAlgorithms minus", BOX + "  HostKeyAlgorithms -ssh-ed25519*\n",
         f"{HERE} @ED@\n{HERE} @RSA@\n"),
    Case("HostKeyAlgorithms plus", BOX + "  HostKeyAlgorithms +ssh-rsa\n", f"{HERE} @RSA@\n"),
    Case("HostKeyAlgorithms in front", BOX + "  HostKeyAlgorithms ^rsa-sha2-512\n",
         f"{HERE} @RSA@\n{KNOWN}"),
    Case("HostKeyAlgorithms in front, unknown", BOX + "  HostKeyAlgorithms ^rsa-sha2-512\n"),
    Case("HostKeyAlgorithms that the server lacks",
         BOX.replace("@PORT@", "@RSAPORT@") + "  HostKeyAlgorithms ssh-ed25519\n",
         refused="", known="[127.0.0.1]:@RSAPORT@ @RSA@\n"),
    Case("RequiredRSASize above the key", BOX.replace("@PORT@", "@RSAPORT@")
         + "  RequiredRSASize 3072\n", "[127.0.0.1]:@RSAPORT@ @RSA@\n"),
]  # fmt: skip

_CERT = BOX.replace("@PORT@", "@CERTPORT@")
_SIGNED = "@cert-authority 127.0.0.1,[127.0.0.1]:*,alias.example @CA@\n"


def _certificate(name: str, server: str, known: str = _SIGNED, more: str = "") -> Case:
    return Case(name, BOX.replace("@PORT@", f"@{server}PORT@") + more, known)


CERTIFICATES = [
    _certificate("a certificate", "CERT"),
    _certificate("a certificate by its bare name", "CERT", "@cert-authority 127.0.0.1 @CA@\n"),
    _certificate("a certificate by a star", "CERT", "@cert-authority * @CA@\n"),
    _certificate("a certificate of another authority", "CERT", "@cert-authority * @OTHER_ED@\n"),
    _certificate("two authorities", "CERT", f"@cert-authority * @OTHER_ED@\n{_SIGNED}"),
    _certificate("a certificate, only its key is known", "CERT",
                 "[127.0.0.1]:@CERTPORT@ @GOOD@\n"),
    _certificate("a certificate of another authority, its key is known", "CERT",
                 "@cert-authority * @OTHER_ED@\n[127.0.0.1]:@CERTPORT@ @GOOD@\n"),
    _certificate("a certificate, nothing is known", "CERT", ""),
    _certificate("a certificate for another name", "ELSEWHERE"),
    _certificate("a certificate for another name, its key is known", "ELSEWHERE",
                 f"{_SIGNED}[127.0.0.1]:@ELSEWHEREPORT@ @ELSEWHERE@\n"),
    _certificate("a certificate for HostKeyAlias", "ELSEWHERE",
                 "@cert-authority other.example @CA@\n", "  HostKeyAlias other.example\n"),
    _certificate("a certificate for everyone", "ANYONE"),
    _certificate("an expired certificate", "EXPIRED"),
    _certificate("a certificate of the future", "FUTURE"),
    _certificate("the authority is revoked", "CERT", f"{_SIGNED}@revoked * @CA@\n"),
    _certificate("the certified key is revoked", "CERT", f"{_SIGNED}@revoked * @GOOD@\n"),
    _certificate("CASignatureAlgorithms without the authority's", "CERT",
                 more="  CASignatureAlgorithms rsa-sha2-512\n"),
    _certificate("plain keys alone are offered", "CERT", "[127.0.0.1]:@CERTPORT@ @GOOD@\n",
                 "  HostKeyAlgorithms ssh-ed25519\n"),
    Case("RevokedHostKeys has the authority", _CERT + "  RevokedHostKeys @DIR@/revoked\n",
         _SIGNED, files={"revoked": "@CA@\n"}),
    Case("a KRL with the certificate", _CERT + "  RevokedHostKeys @DIR@/krl\n", _SIGNED,
         prepare=lambda folder, world: _krl(folder, world / "good-cert.pub")),
]  # fmt: skip

PLACES = [
    Case("user and port in the destination", "IdentityFile @ID_FILE@\n" + BY,
         destination="@USER@@127.0.0.1:@PORT@", ssh=("-p", "@PORT@", "@USER@@127.0.0.1")),
    Case("port in the destination wins", BOX.replace("@PORT@", "1"),
         destination="box:@PORT@", ssh=("-p", "@PORT@", "box")),
    Case("user in the destination wins", BOX + "  User nobody-here\n",
         destination="@USER@@box"),
    Case("a user without an account", BOX + "  User nobody-here\n"),
    Case("an ssh:// address", "IdentityFile @ID_FILE@\n" + BY,
         destination="ssh://@USER@@127.0.0.1:@PORT@"),
    Case("IPv6 with a port", "IdentityFile @ID_FILE@\n" + BY, "[::1]:@PORT@ @ED@\n",
         "[::1]:@PORT@", ("-p", "@PORT@", "::1")),
    Case("IPv6 with a user and a port", "IdentityFile @ID_FILE@\n" + BY, "[::1]:@PORT@ @ED@\n",
         "@USER@@[::1]:@PORT@", ("-p", "@PORT@", "@USER@@::1")),
    Case("IPv6 without a port", "Port @PORT@\nIdentityFile @ID_FILE@\n" + BY,
         "[::1]:@PORT@ @ED@\n", "::1"),
    Case("IPv6, known by its bare name", "Port @PORT@\nIdentityFile @ID_FILE@\n" + BY,
         "::1 @ED@\n", "::1"),
    Case("AddressFamily inet6", TO.replace("127.0.0.1", "ip6-localhost.invalid") + AS + BY
         + "  AddressFamily inet6\n"),
    Case("AddressFamily inet6 for an address of IPv4", BOX + "  AddressFamily inet6\n"),
    Case("BindAddress", BOX + "  BindAddress 127.0.0.2\n"),
    Case("BindAddress of another machine", BOX + "  BindAddress 192.0.2.1\n"),
    Case("nobody listens", BOX.replace("@PORT@", "@NOPORT@")),
    Case("a name that nobody has", BOX.replace("127.0.0.1", "box.invalid")),
    Case("HostName with %h", BOX.replace("HostName 127.0.0.1", "HostName %h.0.0.1").replace(
        "Host box", "Host 127"), destination="127"),
    Case("Include of a whole path", "Include @DIR@/more\n", files={"more": BOX}),
    Case("Include below ~/.ssh", "Include more/*.conf\n", files={"home/.ssh/more/a.conf": BOX}),
    Case("Include of the home", "Include ~/.ssh/more\n", files={"home/.ssh/more": BOX}),
    Case("Include inside a Host", "Host other\n  Include @DIR@/wrong\n" + BOX,
         files={"wrong": "Port 1\n"}),
    Case("Match host", "Match host box\n" + BOX.partition("\n")[2]),
    Case("Match originalhost and user", f"{BOX}Match originalhost box user x\n  Port 1\n"),
    Case("Match exec", 'Match exec "test %n = box"\n' + BOX.partition("\n")[2]),
    Case("Match exec that fails", 'Match exec "false"\n  Port 1\n' + BOX),
    Case("Match all first", "Match all\n" + BOX.partition("\n")[2]),
    Case("Match final", BOX.replace("  Port @PORT@\n", "") + "Match final host 127.0.0.1\n"
         "  Port @PORT@\n"),
    Case("Host with a negation", "Host !box *\n  Port 1\n" + BOX),
    Case("the first value wins", "Port @PORT@\n" + BOX.replace("@PORT@", "1")),
    Case("keywords with = and quotes", 'HostName="127.0.0.1"\nPort = @PORT@\n'
         'IdentityFile "@ID_FILE@"\nUserKnownHostsFile=@DIR@/known\n'),
    Case("CanonicalizeHostname that falls back", "CanonicalizeHostname yes\n"
         "CanonicalDomains invalid\nCanonicalizeMaxDots 0\n" + BOX),
    Case("CanonicalizeHostname without a fallback", "CanonicalizeHostname yes\n"
         "CanonicalDomains invalid\nCanonicalizeFallbackLocal no\n"
         + BOX.replace("  HostName 127.0.0.1\n", "")),
    Case("a keyword that nobody knows", BOX + "  NoSuchKeyword yes\n"),
    Case("a keyword that may be ignored", "IgnoreUnknown NoSuch*\n" + BOX + "  NoSuchKeyword 1\n"),
    Case("a bad port", BOX.replace("@PORT@", "ssh2x")),
]  # fmt: skip

_JUMP = (
    "Host jump\n  HostName localhost\n  AddressFamily inet\n  Port @RSAPORT@\n" + AS
    + "  UserKnownHostsFile @DIR@/jumps\n"
)  # fmt: skip
_JUMPS = {"jumps": "[localhost]:@RSAPORT@ @RSA@\n"}
_FORWARD = (
    "#!/usr/bin/env python3\n"
    "import os, select, socket, sys\n"
    "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
    "while True:\n"
    "    for r in select.select([0, s], [], [])[0]:\n"
    "        d = os.read(0, 65536) if r == 0 else s.recv(65536)\n"
    "        if not d: sys.exit()\n"
    "        s.sendall(d) if r == 0 else os.write(1, d)\n"
)
_PASS = (
    "#!/usr/bin/env python3\n"
    "import socket, sys\n"
    "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
    "socket.send_fds(socket.socket(fileno=1), [b'x'], [s.fileno()])\n"
)

ROADS = [
    Case("ProxyJump", BOX + "  ProxyJump jump\n" + _JUMP, files=_JUMPS),
    Case("ProxyJump with user and port", BOX + "  ProxyJump @USER@@jump:@RSAPORT@\n"
         + _JUMP.replace("  Port @RSAPORT@\n", ""), files=_JUMPS),
    Case("ProxyJump as ssh://", BOX + "  ProxyJump ssh://@USER@@jump:@RSAPORT@\n"
         + _JUMP.replace("  Port @RSAPORT@\n", ""), files=_JUMPS),
    Case("ProxyJump over IPv6", BOX + "  ProxyJump [::1]:@RSAPORT@\nHost ::1\n" + AS
         + "  UserKnownHostsFile @DIR@/jumps\n", files={"jumps": "[::1]:@RSAPORT@ @RSA@\n"}),
    Case("ProxyJump over two hosts", BOX + "  ProxyJump jump,second\n" + _JUMP
         + "Host second\n  HostName 127.0.0.1\n  Port @CERTPORT@\n" + AS
         + "  UserKnownHostsFile @DIR@/jumps\n",
         files={"jumps": "[localhost]:@RSAPORT@ @RSA@\n[127.0.0.1]:@CERTPORT@ @GOOD@\n"}),
    Case("ProxyJump of the jump host", BOX + "  ProxyJump jump\n" + _JUMP
         + "  ProxyJump second\nHost second\n  HostName 127.0.0.1\n  Port @CERTPORT@\n" + AS
         + "  UserKnownHostsFile @DIR@/jumps\n",
         files={"jumps": "[localhost]:@RSAPORT@ @RSA@\n[127.0.0.1]:@CERTPORT@ @GOOD@\n"}),
    Case("ProxyJump none", "Host box\n  ProxyJump none\n" + BOX + "Host *\n  ProxyJump nowhere\n"),
    Case("ProxyJump by a host with an unknown key", BOX + "  ProxyJump jump\n" + _JUMP,
         files={"jumps": ""}),
    Case("ProxyJump to a host that the jump host does not know",
         BOX + "  ProxyJump jump\n" + _JUMP, f"{HERE} @OTHER_ED@\n", files=_JUMPS),
    Case("ProxyCommand", BOX + "  ProxyCommand @DIR@/forward %h %p\n",
         files={"forward": _FORWARD}),
    Case("ProxyCommand is for a shell", BOX + "  ProxyCommand test -n \"$MINE\" && exec "
         "@DIR@/forward %h %p\n", files={"forward": _FORWARD},
         refused=""),
    Case("ProxyCommand with %n and %r", BOX + "  ProxyCommand @DIR@/forward %h %p %n %r %%\n",
         files={"forward": _FORWARD}),
    Case("ProxyCommand with an unknown token", BOX + "  ProxyCommand @DIR@/forward %h %p %Z\n",
         files={"forward": _FORWARD}),
    Case("ProxyCommand to another key", BOX + "  ProxyCommand @DIR@/forward %h %p\n",
         f"{HERE} @OTHER_ED@\n", files={"forward": _FORWARD}),
    Case("ProxyCommand none", BOX + "  ProxyCommand none\n"),
    Case("ProxyCommand ends at once", BOX + "  ProxyCommand false\n"),
    Case("ProxyCommand is missing", BOX + "  ProxyCommand @DIR@/nothing\n"),
    Case("ProxyUseFdpass", BOX + "  ProxyUseFdpass yes\n  ProxyCommand @DIR@/pass %h %p\n",
         files={"pass": _PASS}),
]  # fmt: skip

_MINE = TO + BY
LOGINS = [
    Case("a key of the agent", _MINE + "  IdentityFile none\n", agent=True),
    Case("the agent's key before a file's", BOX, agent=True),
    Case("IdentitiesOnly leaves the agent out", BOX + "  IdentitiesOnly yes\n", agent=True),
    Case("IdentitiesOnly without a key of use",
         _MINE + "  IdentitiesOnly yes\n  IdentityFile @NO_ID_FILE@\n", agent=True),
    Case("IdentitiesOnly with the agent's key named by its public half",
         _MINE + "  IdentitiesOnly yes\n  IdentityFile @DIR@/mine.pub\n", agent=True,
         prepare=lambda folder, world: _copy(world / "id_two.pub", folder / "mine.pub")),
    Case("IdentityAgent", _MINE + "  IdentityFile none\n  IdentityAgent @AGENT@\n"),
    Case("IdentityAgent none", _MINE + "  IdentityFile none\n  IdentityAgent none\n", agent=True),
    Case("several keys, the last one is right",
         _MINE + "  IdentityFile @NO_ID_FILE@\n  IdentityFile @ID_FILE@\n"),
    Case("no key of use", _MINE + "  IdentityFile @NO_ID_FILE@\n"),
    Case("no key at all", _MINE + "  IdentityFile none\n"),
    Case("a key that is missing, then a key",
         _MINE + "  IdentityFile @DIR@/nothing\n  IdentityFile @ID_FILE@\n"),
    Case("a key that others may read", _MINE + "  IdentityFile @DIR@/open\n",
         prepare=lambda folder, world: _copy(world / "id", folder / "open", 0o644)),
    Case("an encrypted key", _MINE + "  IdentityFile @DIR@/locked\n",
         prepare=lambda folder, world: _lock(folder, world)),
    Case("a file that is no key", _MINE + "  IdentityFile @DIR@/known\n"),
    Case("a certificate beside the key", _MINE + "  IdentityFile @CERTIFIED_FILE@\n"),
    Case("CertificateFile", _MINE + "  IdentityFile @DIR@/mine\n  CertificateFile "
         "@CERTIFIED_FILE@-cert.pub\n",
         prepare=lambda folder, world: _copy(world / "certified", folder / "mine")),
    Case("CertificateFile without its key", _MINE + "  IdentityFile @NO_ID_FILE@\n"
         "  CertificateFile @CERTIFIED_FILE@-cert.pub\n"),
    Case("PubkeyAcceptedAlgorithms without the key's",
         BOX + "  PubkeyAcceptedAlgorithms rsa-sha2-512\n"),
    Case("Ciphers", BOX + "  Ciphers aes256-gcm@openssh.com\n"),
    Case("Ciphers that edgekit lacks", BOX + "  Ciphers chacha20-poly1305@openssh.com\n",
         refused="Ciphers"),
    Case("KexAlgorithms and MACs",
         BOX + "  KexAlgorithms ecdh-sha2-nistp256\n  MACs hmac-sha2-256\n  Ciphers aes128-ctr\n"),
    Case("PubkeyAuthentication no", BOX + "  PubkeyAuthentication no\n",
         refused="PubkeyAuthentication"),
    Case("PreferredAuthentications without keys",
         BOX + "  PreferredAuthentications password\n", refused="PreferredAuthentications"),
    Case("RemoteCommand", BOX + "  RemoteCommand true\n"),
    # `SessionType none` is refused by name, too: OpenSSH would stay connected without an end
]  # fmt: skip

CASES = [*KNOWN_HOSTS, *FILES, *STRICTNESS, *CERTIFICATES, *PLACES, *ROADS, *LOGINS]


def _copy(source: Path, target: Path, mode: int = 0o600) -> None:
    shutil.copy(source, target)
    target.chmod(mode)


def _copy_as(folder: Path, world: Path) -> None:
    from tests.harness.openssh_world import tools_user

    _copy(world / "id", folder / f"{tools_user()}-127.0.0.1")


def _krl(folder: Path, key: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", folder / "krl", key], check=True)


def _lock(folder: Path, world: Path) -> None:
    _copy(world / "id", folder / "locked")
    argv = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", folder / "locked"]
    subprocess.run(argv, check=True, capture_output=True)
