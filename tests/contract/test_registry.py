"""What edgekit needs of a registry, on Debian's docker-registry; and what it takes from none."""

from __future__ import annotations

import hashlib
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from edgekit.bundle import publish as publishing
from edgekit.bundle.layout import Layout
from edgekit.bundle.publish import publish
from edgekit.core.digest import Digest
from edgekit.core.manifest import MANIFEST_TYPE
from edgekit.core.registry import METADATA_TAG, parse_registry
from edgekit.errors import EdgekitError, UnreachableError, UsageError, VerificationError
from edgekit.registry import fetch, pace
from edgekit.registry.client import NoEntryError, NotThereError, RegistryAccess, RegistryClient
from edgekit.trust.signed import Metadata
from tests import tools
from tests.conftest import Project, make_project
from tests.harness.registry import (
    PASSWORD,
    REPOSITORY,
    USER,
    Answer,
    Registry,
    Route,
    answering,
    client_of,
    registry,
    trickling,
)
from tests.pki import Authority

pytestmark = pytest.mark.timeout(180)
DATA = random.Random(1).randbytes(3 << 20)
BLOB = Digest.of(DATA)
METADATA = Metadata(["root one", "root two"], "time", "snap", "targets")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def project(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"), 1, smollm2)


def no_wait(_seconds: float) -> None: ...


def put(client: RegistryClient, data: bytes) -> Digest:
    publishing._small(client, data, "application/octet-stream", "")
    return Digest.of(data)


def pull(client: RegistryClient, part: Path, digest: Digest = BLOB, size: int = len(DATA)) -> int:
    """How many bytes came."""
    came: list[int] = []
    fetch.blob(client, digest, size, part, came.append, no_wait)
    return sum(came)


# --- the real one -----------------------------------------------------------------------------
def test_a_bundle_is_published_once_and_other_tools_read_it(
    real: Registry, project: Project
) -> None:
    store = Layout(project.store)
    pinned = store.resolve("smollm2:1")
    client, said = real.client(), []
    first = publish(client, store, pinned, METADATA, lambda *told: said.append(told))
    assert first.blobs_there == 0
    sizes = {each.digest: each.size for each in (pinned.manifest.config, *pinned.manifest.layers)}
    assert first.bytes_sent == sum(sizes.values())
    assert said[-1][1] == said[-1][2] == first.bytes_sent
    again = publish(client, store, pinned, METADATA, lambda *_: None)
    assert (again.blobs_sent, again.bytes_sent) == (0, 0)
    assert again.blobs_there == first.blobs_sent
    assert fetch.manifest(client, pinned.digest, 1 << 20) == pinned.data
    raw = subprocess.run(
        [tools.find("skopeo"), "inspect", "--raw", "--tls-verify=false",
         f"docker://127.0.0.1:{real.port}/{REPOSITORY}:{first.tag}"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert raw.stdout == pinned.data


def test_metadata_is_an_artifact_whose_files_have_their_names(
    real: Registry, project: Project
) -> None:
    client = real.client()
    publishing.publish_metadata(client, METADATA)
    told = msgspec.json.decode(fetch.manifest(client, METADATA_TAG, 1 << 20))
    found = {
        each["annotations"]["org.opencontainers.image.title"]: fetch.small_blob(
            client, Digest.parse(each["digest"]), each["size"]
        )
        for each in told["layers"]
    }
    assert found == {
        "1.root.json": b"root one",
        "2.root.json": b"root two",
        "targets.json": b"targets",
        "snapshot.json": b"snap",
        "timestamp.json": b"time",
    }


def test_a_part_goes_on_where_it_ends(real: Registry, tmp_path: Path) -> None:
    client, part = real.client(), tmp_path / "part"
    put(client, DATA)
    part.write_bytes(DATA[:1_000_001])
    assert pull(client, part) == len(DATA) - 1_000_001
    assert part.read_bytes() == DATA
    assert pull(client, part) == 0, "a whole one is not asked for"


def test_a_registry_that_dies_in_a_blob_is_waited_for(tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as real:
        client, part = real.client(), tmp_path / "part"
        put(client, DATA)
        kills: list[int] = []

        def count(_bytes: int) -> None:
            if not kills and part.stat().st_size > 1 << 20:
                kills.append(part.stat().st_size)
                real.kill()
                client.close()  # what the kernel has buffered would still be read
                threading.Timer(0.5, real.start).start()

        fetch.blob(client, BLOB, len(DATA), part, count, lambda _: time.sleep(0.4))
    assert part.read_bytes() == DATA
    assert kills


def test_an_upload_that_broke_off_ends_whole(real: Registry, tmp_path: Path) -> None:
    client = real.client()
    source, data = tmp_path / "source", random.Random(2).randbytes(300_000)
    source.write_bytes(data)
    blob = mock.Mock(digest=Digest.of(data), size=len(data))
    asked, ask = [], client.ask

    def breaking(method: str, path: str, *rest: object, **more: object) -> object:
        asked.append(method)
        if asked.count("PATCH") == 2 and method == "PATCH":
            ask(method, path, *rest, **more)  # type: ignore[arg-type]  # it arrives, unheard
            client.close()
            raise UnreachableError("cut")
        return ask(method, path, *rest, **more)  # type: ignore[arg-type]  # as the client's

    with (
        mock.patch.object(client, "ask", breaking),
        mock.patch.object(publishing, "PIECE_BYTES", 100_000),
        mock.patch.object(publishing, "PAUSE_SECONDS", 0.0),
    ):
        publishing._send_file(client, blob, source, lambda _: None)
    # docker-registry does not know an upload again whose last answer was lost: it begins anew
    assert asked == [*("POST", "PATCH", "PATCH", "GET"), *("POST", *["PATCH"] * 3, "PUT")]
    assert fetch.small_blob(client, blob.digest, blob.size) == data


def cut_in_a_piece(there: bytearray, cuts: int) -> Route:
    """A registry of one upload that breaks off `cuts` times, each time with half of a piece."""

    def route(method: str, _path: str, headers: Message) -> Answer:
        told = {"Location": "/upload", "Range": f"0-{max(len(there) - 1, 0)}"}
        if method == "PATCH":
            start, end = map(int, headers["Content-Range"].split("-"))
            if start != len(there):
                return 416, told, b""
            nonlocal cuts
            cut, cuts = cuts > 0, cuts - 1
            there.extend(DATA[start : end + 1][: 50_000 if cut else None])
            if cut:
                raise ConnectionError  # the connection ends without an answer
            return 202, told, b""
        return {"POST": 202, "GET": 204, "PUT": 201}[method], told, b""

    return route


@pytest.mark.parametrize("first", [0, 7])
def test_a_piece_of_which_a_part_arrived_goes_on_there(first: int, tmp_path: Path) -> None:
    source, there, size = tmp_path / "source", bytearray(DATA[:first]), 300_000
    source.write_bytes(DATA[:size])
    blob = mock.Mock(digest=Digest.of(DATA[:size]), size=size)
    with (
        answering(cut_in_a_piece(there, 2)) as port,
        mock.patch.object(publishing, "PIECE_BYTES", 100_000),
        mock.patch.object(publishing, "PAUSE_SECONDS", 0.0),
    ):
        publishing._send_file(client_of(port), blob, source, lambda _: None)
    assert there == DATA[:size]


def test_a_blob_that_is_not_there_is_not_asked_for_again(real: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotThereError):
        pull(real.client(), tmp_path / "part", Digest.of(b"nothing"))


def test_tls_needs_the_ca_and_a_login_its_password(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    shown = ca.issue("registry", hosts=("127.0.0.1",))
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text(f"{USER}:{_bcrypt()}\n")
    config = (
        f"  tls:\n    certificate: {shown.cert}\n    key: {shown.key}\n"
        f"auth:\n  htpasswd:\n    realm: fleet\n    path: {htpasswd}\n"
    )
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    with registry(tmp_path / "registry", config, "https") as real:
        with pytest.raises(VerificationError, match="certificate"):
            put(real.client(), b"x")
        with pytest.raises(NoEntryError, match="lets us not in"):
            put(real.client(ca_file=str(ca.cert)), b"x")
        login = {"username": USER, "password_file": str(secret), "ca_file": str(ca.cert)}
        client = real.client(**login)
        assert fetch.small_blob(client, put(client, b"x"), 1) == b"x"
        secret.write_text("wrong\n")
        with pytest.raises(NoEntryError):
            put(real.client(**login), b"y")


def _bcrypt() -> str:
    """`PASSWORD` as htpasswd -B writes it."""
    import bcrypt

    return bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode()


# --- one that lies ----------------------------------------------------------------------------
def ranged(answer: bytes, told: str, status: int = 206, **headers: str) -> Answer:
    return status, {"Content-Range": told, **headers}, answer


def test_what_is_not_its_digest_is_refused_by_name() -> None:
    with answering(lambda *_: (200, {}, b"forged")) as port:
        client = client_of(port)
        with pytest.raises(VerificationError, match=f"{BLOB.short} has another digest"):
            fetch.small_blob(client, BLOB, 100)
        with pytest.raises(VerificationError, match="lies"):
            fetch.manifest(client, BLOB, 100)
        with pytest.raises(VerificationError, match="too long"):
            fetch.small_blob(client, BLOB, 5)


@pytest.mark.parametrize(
    "answer",
    [
        ranged(b"xx", "bytes 5-6/10"),
        ranged(b"xx", "bytes 0-1/11"),
        ranged(b"xx", "rubbish"),
        (200, {}, b"x" * 11),
    ],
)
def test_another_range_or_length_than_the_signed_one_is_refused(
    answer: Answer, tmp_path: Path
) -> None:
    with answering(lambda *_: answer) as port, pytest.raises(VerificationError):
        pull(client_of(port), tmp_path / "part", Digest.of(b"0123456789"), 10)


def test_a_registry_without_ranges_sends_it_whole(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(DATA[:99])
    with answering(lambda *_: (200, {}, DATA)) as port:
        assert pull(client_of(port), part) == len(DATA)
    assert part.read_bytes() == DATA


def test_one_that_brings_nothing_is_given_up_and_the_part_stays(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(DATA[:99])
    asked: list[str] = []

    def route(_method: str, path: str, _headers: Message) -> Answer:
        asked.append(path)
        return 503, {}, b""

    with answering(route) as port, pytest.raises(UnreachableError, match="did not come whole"):
        pull(client_of(port), part)
    assert len(asked) == fetch.MOST_FAILURES
    assert part.read_bytes() == DATA[:99]


def test_a_stream_that_is_cut_often_comes_whole_as_long_as_bytes_come(tmp_path: Path) -> None:
    def route(_method: str, _path: str, headers: Message) -> Answer:
        start = int(headers["Range"][6:].partition("-")[0])
        left, told = len(DATA) - start, f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        return 206, {"Content-Range": told, "Content-Length": str(left)}, DATA[start:][:300_000]

    with answering(route) as port:
        assert pull(client_of(port), tmp_path / "part") == len(DATA)
    assert hashlib.sha256((tmp_path / "part").read_bytes()).hexdigest() == BLOB.hex


@pytest.mark.parametrize("place", ["head", "manifest", "blob"])
def test_one_that_sends_byte_by_byte_is_left(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "WINDOW_SECONDS", 0.2)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(DATA)}\r\n\r\n".encode()
    fast = len("HTTP/1.1 200") if place == "head" else len(head) + 1000
    began = time.monotonic()
    with trickling(head + DATA, fast) as port:
        client, wanted = client_of(port), pytest.raises(UnreachableError, match="in 0 seconds")
        if place == "blob":
            with wanted:
                pull(client, tmp_path / "part")
        else:
            with wanted:
                fetch.manifest(client, "latest", len(DATA))
    assert time.monotonic() - began < 20
    if place == "blob":  # what came stays
        part = (tmp_path / "part").read_bytes()
        assert 1000 < len(part) < 10_000
        assert DATA.startswith(part)


# --- credentials ------------------------------------------------------------------------------
def test_a_redirect_gets_no_credentials_and_never_leads_from_https_to_http(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)
    seen: list[str | None] = []

    def storage(_method: str, _path: str, headers: Message) -> Answer:
        seen.append(headers.get("Authorization"))
        return 200, {}, b"x"

    with answering(storage) as elsewhere:

        def route(_method: str, _path: str, headers: Message) -> Answer:
            if not headers.get("Authorization"):
                return 401, {"WWW-Authenticate": 'Basic realm="r"'}, b""
            return 307, {"Location": f"http://127.0.0.1:{elsewhere}/blob?secret=1"}, b""

        with answering(route) as port:
            client = client_of(port, username=USER, password_file=str(secret))
            assert fetch.small_blob(client, Digest.of(b"x"), 1) == b"x"
    assert seen == [None]
    client = client_of(1)
    with pytest.raises(VerificationError, match="from https to http"):
        client._redirected("https://a/", "http://b/")
    with pytest.raises(VerificationError, match="to file"):
        client._redirected("http://a/", "file:///etc/passwd")


def test_a_bearer_token_is_asked_for_once(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)
    asked: list[str] = []

    def tokens(_method: str, path: str, headers: Message) -> Answer:
        asked.append(path)
        assert headers.get("Authorization", "").startswith("Basic ")
        return 200, {}, b'{"token": "T"}'

    with answering(tokens) as server:

        def route(_method: str, _path: str, headers: Message) -> Answer:
            if headers.get("Authorization") != "Bearer T":
                realm = f'Bearer realm="http://127.0.0.1:{server}/token",service="s"'
                return 401, {"WWW-Authenticate": realm}, b""
            return 200, {}, b"x"

        with answering(route) as port:
            client = client_of(port, username=USER, password_file=str(secret))
            for _ in range(3):
                assert fetch.small_blob(client, Digest.of(b"x"), 1) == b"x"
    assert len(asked) == 1
    assert "scope=repository%3Afleet%2Fmodels%3Apull" in asked[0]
    assert "service=s" in asked[0]


@pytest.mark.parametrize("username", [USER, ""])
def test_a_token_that_ends_is_asked_for_anew_also_of_a_registry_that_gives_its_own(
    username: str, tmp_path: Path
) -> None:
    """As Harbor, Gitea and Forgejo do: an old token is no login at their token server."""
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)
    given: list[str] = []
    ports: list[int] = []
    login = "Basic " if username else ""

    def route(_method: str, path: str, headers: Message) -> Answer:
        told = headers.get("Authorization", "")
        if path.startswith("/token"):
            if told[: len("Basic ")] != login:
                return 401, {}, b""
            given.append(f"T{len(given)}")
            return 200, {}, f'{{"token": "{given[-1]}"}}'.encode()
        if len(given) < 2 or told != f"Bearer {given[-1]}":
            if given and told == f"Bearer {given[-1]}" and path.endswith(str(BLOB)):
                return 200, {}, DATA
            realm = f'Bearer realm="http://127.0.0.1:{ports[0]}/token"'
            return 401, {"WWW-Authenticate": realm}, b""
        return 200, {}, b"x"

    with answering(route) as port:
        ports.append(port)
        client = client_of(port, username=username, password_file=str(secret) if username else "")
        assert fetch.small_blob(client, BLOB, len(DATA)) == DATA
        assert fetch.small_blob(client, Digest.of(b"x"), 1) == b"x"  # the first token has ended
    assert given == ["T0", "T1"]


@pytest.mark.parametrize("realm", ["http://elsewhere.example/token", "ftp://x/", ""])
def test_a_login_goes_to_no_token_server_without_https(realm: str) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    with (
        answering(lambda *_: (401, challenge, b"")) as port,
        pytest.raises(VerificationError, match="for a token"),
    ):
        fetch.small_blob(client_of(port), BLOB, 1)


BAD_URLS = [
    *("https://h:99999/", "https://[x/", "https://h:port/", f"http://{'a' * 64}.example/"),
    *("/\xe4", "http://127.0.0.1:1/\xe4?\xf6"),
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_is_none_is_refused_by_name(url: str, tmp_path: Path) -> None:
    redirects = lambda *_: (307, {"Location": url}, b"")  # noqa: E731  as the other ones
    with (
        answering(redirects) as port,
        pytest.raises(VerificationError, match="a URL that cannot be used"),
    ):
        pull(client_of(port), tmp_path / "part")


@pytest.mark.parametrize("realm", ["https://h:99999/", "https://[x/", f"https://{'a' * 64}.x/"])
def test_a_token_server_without_an_address_is_refused_by_name(realm: str) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    with (
        answering(lambda *_: (401, challenge, b"")) as port,
        pytest.raises(VerificationError, match="a URL that cannot be used"),
    ):
        fetch.small_blob(client_of(port), BLOB, 1)


def test_a_token_that_no_header_takes_is_none() -> None:
    ports: list[int] = []

    def route(_method: str, path: str, _headers: Message) -> Answer:
        if path.startswith("/token"):
            return 200, {}, '{"token": "\u20ac"}'.encode()
        realm = f'Bearer realm="http://127.0.0.1:{ports[0]}/token"'
        return 401, {"WWW-Authenticate": realm}, b""

    with answering(route) as port:
        ports.append(port)
        with pytest.raises(EdgekitError, match="gives no token"):
            fetch.small_blob(client_of(port), BLOB, 1)


@pytest.mark.parametrize("place", ["ftp://elsewhere.example/up", "file:///etc/passwd"])
def test_an_upload_goes_to_no_other_kind_of_place(place: str) -> None:
    with answering(lambda *_: (202, {"Location": place}, b"")) as port:
        location = publishing._begin(client_of(port))
        with pytest.raises(VerificationError, match="redirects from http to"):
            publishing._finish(client_of(port), location, BLOB, b"x")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "registry.example"])
def test_a_registry_with_https_names_no_token_server_without(host: str) -> None:
    client = RegistryClient(RegistryAccess(parse_registry("https://registry.example/m")))
    with pytest.raises(VerificationError, match="for a token"):
        client._token({"realm": f"http://{host}:1/token"})


def test_a_registry_that_redirects_without_an_end_is_left(tmp_path: Path) -> None:
    with (
        answering(lambda *_: (307, {"Location": "/again"}, b"")) as port,
        pytest.raises(EdgekitError, match="without an end"),
    ):
        fetch.small_blob(client_of(port), BLOB, 1)


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such-file"):
        client_of(1, username=USER, password_file=str(tmp_path / "no-such-file"))


def test_the_kind_of_a_manifest_is_asked_for() -> None:
    kinds: list[str] = []

    def route(_method: str, _path: str, headers: Message) -> Answer:
        kinds.append(headers["Accept"])
        return 200, {}, b"{}"

    with answering(route) as port:
        fetch.manifest(client_of(port), "tag", 10)
    assert kinds == [MANIFEST_TYPE]
