"""What OpenSSH and edgekit have to agree on about destinations, proxies and logins."""

from __future__ import annotations

from tests.harness.openssh_case import (
    AS,
    BOX,
    BY,
    HERE,
    TO,
    Case,
    copy,
    lock,
)

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
    Case("a port where nothing listens", BOX.replace("@PORT@", "@NOPORT@")),
    Case("a name without an address", BOX.replace("127.0.0.1", "box.invalid")),
    Case("a name with an empty label", BOX.replace("127.0.0.1", "box..invalid")),
    Case("a name with a label too long", BOX.replace("127.0.0.1", "x" * 64 + ".invalid")),
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
    Case("a keyword that OpenSSH does not know", BOX + "  NoSuchKeyword yes\n"),
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
    Case("ProxyCommand before ProxyJump", BOX + "  ProxyCommand @DIR@/forward %h %p\n"
         "  ProxyJump nowhere\n", files={"forward": _FORWARD}),
    Case("ProxyJump before ProxyCommand", BOX + "  ProxyJump jump\n  ProxyCommand false\n"
         + _JUMP, files=_JUMPS),
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
         prepare=lambda folder, world: copy(world / "id_two.pub", folder / "mine.pub")),
    Case("IdentityAgent", _MINE + "  IdentityFile none\n  IdentityAgent @AGENT@\n"),
    Case("IdentityAgent none", _MINE + "  IdentityFile none\n  IdentityAgent none\n", agent=True),
    Case("several keys, the last one is right",
         _MINE + "  IdentityFile @NO_ID_FILE@\n  IdentityFile @ID_FILE@\n"),
    Case("no key of use", _MINE + "  IdentityFile @NO_ID_FILE@\n"),
    Case("no key at all", _MINE + "  IdentityFile none\n"),
    Case("a key that is missing, then a key",
         _MINE + "  IdentityFile @DIR@/nothing\n  IdentityFile @ID_FILE@\n"),
    Case("a key that others may read", _MINE + "  IdentityFile @DIR@/open\n",
         prepare=lambda folder, world: copy(world / "id", folder / "open", 0o644)),
    Case("an encrypted key", _MINE + "  IdentityFile @DIR@/locked\n",
         prepare=lock),
    Case("a file that is no key", _MINE + "  IdentityFile @DIR@/known\n"),
    Case("a key in the home of an account without a name",
         _MINE + "  IdentityFile ~no-such-account/x\n  IdentityFile @ID_FILE@\n"),
    Case("a certificate beside the key", _MINE + "  IdentityFile @CERTIFIED_FILE@\n"),
    Case("CertificateFile", _MINE + "  IdentityFile @DIR@/mine\n  CertificateFile "
         "@CERTIFIED_FILE@-cert.pub\n",
         prepare=lambda folder, world: copy(world / "certified", folder / "mine")),
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
