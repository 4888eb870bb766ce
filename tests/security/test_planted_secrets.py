"""Secrets that would be known again, in actors that everything goes wrong for; then all that they
said, wrote and ran is searched for them.

The actors are real: one process with mutual TLS, ledgers in PostgreSQL behind a password, units on
real nodes over SSH, a real directory. Every library logs all that it has to say.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import secrets as chance
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from shirako.api import Tokens
from shirako.certificates import client_context
from shirako.demo.box import make_guest_key
from shirako.demo.placing import place
from shirako.demo.processes import make_keys
from shirako.descriptor import Descriptor, read_descriptor
from shirako.testbed import Site, Testbed
from shirako.testbed.postgres import Postgres
from tests.security.conftest import shirako
from tests.security.needles import Needles, forms, of_file

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent.parent
LOUD = (
    "import logging; logging.basicConfig(level=logging.DEBUG); "
    "logging.Logger.setLevel = lambda *_: None; "
    "from shirako.cli import main; main()"
)
"""The command, with all that its libraries can log: none may turn its own log down."""
WAIT_SECONDS = 60.0
LOOKS = 4
"""At each process: what it is called by, and what it becomes with its first steps."""
NODE_FOLDERS = ("etc", "home", "root", "run", "tmp", "var")
HEX = re.compile(rb"\\\\x([0-9a-f]+)")


@dataclass
class Haul:
    """The world, its secrets, and what was gathered where."""

    folder: Path
    site: Site
    postgres: Postgres
    descriptor: Descriptor
    tokens: dict[str, str]
    planted: dict[str, list[bytes]]
    """What somebody sent by mistake, or to try it: to be repeated nowhere either."""
    gathered: dict[str, bytearray] = field(default_factory=dict)
    keys: dict[str, list[bytes]] = field(default_factory=dict)
    """Private keys of actors, also those that were replaced."""
    statuses: list[int] = field(default_factory=list)
    begun: float = field(default_factory=time.time)

    def add(self, where: str, data: bytes) -> None:
        self.gathered.setdefault(where, bytearray()).extend(data + b"\n")

    def keep_keys(self) -> None:
        """Note the private keys that there are now."""
        for file in sorted((self.folder / "keys").rglob("*")):
            if file.is_file() and b'"d"' in file.read_bytes():
                for secret in of_file(file):
                    several = self.keys.setdefault(f"key in {file.name}", [])
                    if secret not in several:
                        several.append(secret)

    def url(self, actor: str) -> str:
        return next(one.url for one in self.descriptor.actors if one.name == actor)

    def tls(self, *, shown: bool = True) -> ssl.SSLContext:
        certs = self.folder / "certs"
        own = (certs / "ann.pem", certs / "ann.key") if shown else (None, None)
        return client_context(certs / "ca.pem", *own)

    def call(
        self,
        actor: str,
        token: str,
        method: str,
        path: str,
        body: bytes | object = None,
        seconds: float = 40.0,
    ) -> tuple[int, Any]:
        """Status and what of the body is JSON; all that was answered is gathered."""
        at = urlsplit(self.url(actor))
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        line = http.client.HTTPSConnection(
            str(at.hostname), at.port, context=self.tls(), timeout=seconds
        )
        with contextlib.closing(line):
            line.request(method, path, data, {"Authorization": token})
            answer = line.getresponse()
            told = answer.read()
        self.add("answers", f"{method} {answer.status} {answer.headers}".encode() + told)
        self.statuses.append(answer.status)
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(told)
        return answer.status, None

    def as_(self, role: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
        actor = {"guest": "guest", "site-admin": "site", "broker-admin": "broker"}[role]
        return self.call(actor, f"Bearer {self.tokens[role]}", method, f"/api/v1{path}", body)

    def until(self, role: str, path: str, holds: Callable[[Any], Any]) -> Any:
        deadline = time.monotonic() + WAIT_SECONDS
        last: Any = None
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                last = self.as_(role, "GET", path)
                if last[0] == 200 and holds(last[1]):
                    return last[1]
            time.sleep(0.2)
        raise AssertionError((path, last, (self.folder / "log").read_text()[-3000:]))

    @contextlib.contextmanager
    def actors(self) -> Iterator[subprocess.Popen[bytes]]:
        """All of them in one process, as `shirako run` has them, but louder."""
        command = [sys.executable, "-c", LOUD, "run", str(self.descriptor.path), "-v"]
        with (self.folder / "log").open("ab") as log:
            running = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield running
        finally:
            running.kill() if running.poll() is None else None
            running.wait()

    def fails(self, *arguments: str) -> None:
        """A command that must not work, in a process; what it says is gathered."""
        done = subprocess.run(
            [sys.executable, "-c", LOUD, *arguments], capture_output=True, timeout=60, check=False
        )
        assert done.returncode in (1, 2), done
        self.add("commands", done.stdout + done.stderr)

    def is_refused(self, status: int, *arguments: str) -> None:
        """The same in this process, which is quicker."""
        self.add("commands", shirako(*arguments, status=status).encode())


class Watch:
    """Looks at the command lines and environments of all processes that there are meanwhile."""

    def __init__(self, haul: Haul) -> None:
        self._haul = haul
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: set[bytes] = set()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._haul.add("processes", b"\n".join(self.seen))

    def _look(self) -> None:
        looks: Counter[str] = Counter()
        while not self._end.wait(0.05):
            there = {one.name for one in Path("/proc").iterdir() if one.name.isdigit()}
            for gone in set(looks) - there:
                del looks[gone]
            looks.update(there)
            for name in there:
                if looks[name] <= LOOKS and name != str(os.getpid()):
                    for file in ("cmdline", "environ"):
                        with contextlib.suppress(OSError):
                            self.seen.add(Path("/proc", name, file).read_bytes())


def _descriptor(folder: Path, site: Site, postgres: Postgres) -> Path:
    """That of the demo, with TLS, and with ledgers behind a password."""
    template = folder / "template" / "actors.xml"
    shutil.copytree(ROOT / "examples", folder / "template" / "examples")
    passfile = folder / "pgpass"
    passfile.write_text(f"127.0.0.1:{postgres.port}:shirako:shirako:{postgres.password}\n")
    passfile.chmod(0o600)
    ledger = f"postgresql://shirako@127.0.0.1:{postgres.port}/shirako?passfile={passfile}"
    text = (ROOT / "actors.xml").read_text().replace("http://", "https://")
    text = text.replace('skew="30s">', f'skew="30s" ledger="{ledger}">')
    text = text.replace("</actors>", '<tls certificates="certs" mutual="true"/></actors>')
    template.write_text(text)
    key = make_guest_key(folder / "guest_key").private
    path = place(template, site, folder, guest_key=key, keep_ports=False)
    make_keys(read_descriptor(path, keys=False))
    return path


@pytest.fixture(scope="module")
def haul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haul]:
    """Everything that goes wrong, once for all tests of this file."""
    folder = tmp_path_factory.mktemp("planted")
    with ExitStack() as stack:
        testbed = stack.enter_context(Testbed(folder / "testbed", nodes=2, mode="namespaces"))
        site = testbed.start(print)
        postgres = stack.enter_context(Postgres())
        path = _descriptor(folder, site, postgres)
        certs = str(folder / "certs")
        shirako("ca", "init", certs)
        shirako("ca", "issue", certs, "--actors", str(path))
        shirako("ca", "issue", certs, "ann", "--client")
        descriptor = read_descriptor(path)
        tokens = Tokens(descriptor.state)
        haul = Haul(
            folder=folder,
            site=site,
            postgres=postgres,
            descriptor=descriptor,
            tokens={
                role: tokens.create(role, role) for role in ("guest", "site-admin", "broker-admin")
            },
            planted={
                name: [f"{name}-{chance.token_hex(12)}/+? &".encode()]
                for name in ("wrong-token", "in-body", "in-query", "in-xml", "wrong-password")
            },
        )
        with Watch(haul):
            _go_wrong(haul)
        _gather(haul)
        yield haul


def _go_wrong(haul: Haul) -> None:
    with haul.actors() as process:
        haul.until("broker-admin", "/broker/delegations", lambda told: told["delegations"])
        lease = _lease(haul, "Active")
        _bad_requests(haul)
        _bad_commands(haul)
        password = haul.site.directory.password_file
        kept = password.read_text()
        password.write_text(haul.planted["wrong-password"][0].decode())
        other = _lease(haul, "Ticketed", "Redeeming")
        _wait_for_log(haul, "nvalidCredentials", "invalid credentials", "refused")
        haul.as_("site-admin", "POST", "/site/reconcile", {"dry_run": True})
        password.write_text(kept)
        _until_state(haul, other, "Active")
        _gather_directory(haul)
        haul.postgres.crash()
        guest = f"Bearer {haul.tokens['guest']}"
        with contextlib.suppress(TimeoutError):
            haul.call("guest", guest, "POST", f"/api/v1/leases/{other}/close", {}, seconds=2.0)
        haul.postgres.start()
        process.send_signal(signal.SIGKILL)
    _replace_a_key(haul)
    with haul.actors() as process:
        for one in (lease, other):
            haul.until("guest", "/status", lambda told: told["name"] == "guest")
            haul.as_("guest", "POST", f"/leases/{one}/close", {})
            _until_state(haul, one, "Closed")
        _read_everything(haul, lease)
        _back_up(haul)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def _lease(haul: Haul, *states: str) -> str:
    public = (haul.folder / "guest_key.pub").read_text().strip()
    wish = {"slice": "blue", "type": "node.small", "units": 1, "duration": "1h"}
    status, told = haul.as_("guest", "POST", "/leases", {**wish, "ssh_keys": [public]})
    assert status == 201, told
    _until_state(haul, told["id"], *states)
    return str(told["id"])


def _until_state(haul: Haul, lease: str, *states: str) -> None:
    haul.until("guest", f"/leases/{lease}", lambda told: told["state"] in states)


def _wait_for_log(haul: Haul, *texts: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not any(text in (haul.folder / "log").read_text() for text in texts):
        assert time.monotonic() < deadline, texts
        time.sleep(0.1)


def _bad_requests(haul: Haul) -> None:
    """Each with a secret in it, and each refused."""
    begun = len(haul.statuses)
    guest = f"Bearer {haul.tokens['guest']}"
    inside = haul.planted["in-body"][0].decode()
    query = quote(haul.planted["in-query"][0].decode())
    private = (haul.folder / "guest_key").read_text()
    wish = {"slice": "blue", "type": "node.small", "units": 1, "duration": "1h"}
    bodies: list[object] = [
        inside.encode(),
        json.dumps({**wish, "ssh_keys": [inside]})[:-3].encode(),
        f'"{inside}"'.encode(),
        b"\xff" + inside.encode(),
        {**wish, "slice": inside},
        {**wish, "units": inside},
        {**wish, "duration": inside},
        {**wish, "start": inside},
        {**wish, "renew": inside},
        {**wish, "password": inside},
        {**wish, "ssh_keys": [inside]},
        {**wish, "ssh_keys": [private]},
        {**wish, "configuration": {"password": inside + "\n"}},
        {**wish, "request": inside},
        [inside],
    ]
    for body in bodies:
        haul.call("guest", guest, "POST", "/api/v1/leases", body)
    wrong = haul.planted["wrong-token"][0].decode()
    basic = base64.b64encode(f"ann:{wrong}".encode()).decode()
    for header in (
        f"Bearer {wrong}",
        f"Basic {basic}",
        wrong,
        f"Bearer {guest}",
        f"Bearer\t{wrong}",
    ):
        for actor in ("guest", "site", "broker"):
            haul.call(actor, header, "GET", "/api/v1/status")
    own = quote(haul.tokens["guest"])
    for path in (
        f"/api/v1/leases?after={query}&nothing={query}",
        f"/api/v1/leases?token={own}&x",
        f"/api/v1/leases/{query}",
        f"/{query}?{query}",
        f"/messages/{query}",
    ):
        haul.call("guest", guest, "GET", path)
    for role in ("site-admin", "broker-admin"):
        haul.call("guest", f"Bearer {haul.tokens[role]}", "POST", "/api/v1/leases", wish)
        haul.call("site", guest, "POST", "/api/v1/site/reconcile", {"dry_run": inside})
        haul.call("broker", guest, "POST", f"/api/v1/broker/delegations?{query}", inside.encode())
    for actor in ("guest", "site", "broker"):
        haul.call(actor, guest, "POST", "/messages", inside.encode())
        haul.call(actor, guest, "POST", "/messages", f"{inside}.{inside}.{inside}".encode())
        haul.call(actor, guest, "PUT", "/messages", inside.encode())
    refused = [status for status in haul.statuses[begun:] if status not in (401, 403, 404)]
    assert all(status >= 400 for status in haul.statuses[begun:] if status != 200), refused
    at = urlsplit(haul.url("guest"))
    bare = http.client.HTTPSConnection(
        str(at.hostname), at.port, context=haul.tls(shown=False), timeout=10
    )
    with contextlib.closing(bare), pytest.raises((OSError, http.client.HTTPException)):
        bare.request("GET", "/api/v1/status", headers={"Authorization": guest})
        bare.getresponse()


def _bad_commands(haul: Haul) -> None:
    """Descriptors, key files and databases that are none, each with a secret in it."""
    inside = haul.planted["in-xml"][0].decode()
    safe = inside.replace("&", "&amp;")
    text = haul.descriptor.path.read_text()
    ledger = haul.descriptor.ledger
    at = f"127.0.0.1:{haul.postgres.port}/shirako"
    broken = {
        "option": text.replace("bind-dn=", f'password="{safe}" bind-dn='),
        "value": text.replace('name="directory"', f'name="directory" connections="{safe}"'),
        "no-xml": text.replace("</actors>", f"<password>{inside}"),
        "entity": f'<!DOCTYPE a [<!ENTITY p "{safe}">]>' + text.partition("?>")[2],
        "in-url": text.replace(
            ledger.replace("&", "&amp;"), f"postgresql://shirako:{quote(inside)}@{at}"
        ),
        "in-parameter": text.replace(
            ledger.replace("&", "&amp;"), f"postgresql://shirako@{at}?password={quote(inside)}"
        ),
    }
    for name, content in broken.items():
        assert content != text, name
        file = haul.folder / f"broken-{name}.xml"
        file.write_text(content)
        haul.is_refused(2, "check", str(file))
    haul.fails("run", str(haul.folder / "broken-in-url.xml"))
    wrong = haul.planted["wrong-password"][0].decode().replace(":", "")
    passfile = haul.folder / "wrong-pgpass"
    passfile.write_text(f"127.0.0.1:{haul.postgres.port}:shirako:shirako:{wrong}\n")
    passfile.chmod(0o600)
    file = haul.folder / "wrong-password.xml"
    file.write_text(text.replace(f"{haul.folder}/pgpass", str(passfile)))
    haul.fails("run", str(file), "--actor", "site")
    key = haul.folder / "keys" / "site.jwk"
    whole = key.read_text()
    try:
        key.write_text(whole[:-4])
        haul.is_refused(2, "check", str(haul.descriptor.path))
        key.write_text(whole.replace('"d"', '"e"'))
        haul.is_refused(2, "check", str(haul.descriptor.path))
    finally:
        key.write_text(whole)
    haul.fails("verify", str(key))
    haul.fails("verify", str(haul.folder / "guest_key"))


def _read_everything(haul: Haul, lease: str) -> None:
    """Whatever the actors tell those who may ask."""
    paths = {
        "guest": ("/status", "/leases", f"/leases/{lease}", f"/leases/{lease}/story"),
        "site-admin": ("/status", "/site/nodes", "/site/leases", "/site/delegations"),
        "broker-admin": ("/status", "/broker/leases", "/broker/delegations", "/broker/calendar"),
    }
    for role, several in paths.items():
        for path in several:
            haul.as_(role, "GET", path)
    for story in ("site", "broker"):
        role = f"{story}-admin"
        _, told = haul.as_(role, "GET", f"/{story}/leases")
        for one in told["leases"]:
            where = f"/{story}/leases/{one['holder']}/{one['id']}/story"
            assert haul.as_(role, "GET", where)[0] == 200
    for actor in ("guest", "site", "broker"):
        haul.call(actor, "", "GET", "/.well-known/shirako")
        haul.call(actor, "", "GET", "/api/v1/openapi.json")
    haul.as_("guest", "GET", f"/leases/{lease}/events")


def _replace_a_key(haul: Haul) -> None:
    """So that there is one that was retired."""
    haul.keep_keys()
    told = shirako("keys", "rotate", "guest", str(haul.descriptor.path))
    haul.add("commands", told.encode())
    haul.keep_keys()


def _back_up(haul: Haul) -> None:
    for actor in NAMES:
        file = haul.folder / f"{actor}.backup"
        told = shirako("backup", actor, "-o", str(file), "--actors", str(haul.descriptor.path))
        haul.add("commands", told.encode())
        haul.add("backups", file.read_bytes())


def _gather(haul: Haul) -> None:
    haul.add("log", (haul.folder / "log").read_bytes())
    server, account = haul.postgres, ["-h", str(haul.postgres.folder), "-U", "postgres"]
    dump = subprocess.run(
        ["pg_dump", *account, "-p", str(server.port), "shirako"],
        capture_output=True,
        check=True,
    ).stdout
    haul.add("ledgers", dump)
    for found in HEX.finditer(dump):
        haul.add("ledgers", bytes.fromhex(found[1].decode()))
    haul.add("server's log", (server.folder / "log").read_bytes())
    for file in sorted(haul.descriptor.state.rglob("*")):
        if file.is_file():
            haul.add("state", file.read_bytes())
    _gather_directory(haul)
    for node in haul.site.nodes:
        assert node.root is not None
        for name in NODE_FOLDERS:
            haul.add("nodes", _tree(node.root / name, haul.begun))


def _gather_directory(haul: Haul) -> None:
    """All that is there now: leases leave nothing behind in it."""
    where = haul.site.directory
    found_there = subprocess.run(
        [
            *("ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", where.url),
            *("-D", where.bind_dn, "-y", str(where.password_file), "-b", where.base_dn, "*", "+"),
        ],
        capture_output=True,
        check=True,
    ).stdout
    haul.add("directory", found_there)


def _tree(folder: Path, since: float) -> bytes:
    """All files below it that were written since then."""
    found = []
    for place_, _, files in os.walk(folder):
        for name in files:
            file = Path(place_) / name
            with contextlib.suppress(OSError):
                about = file.lstat()
                if stat.S_ISREG(about.st_mode) and about.st_mtime >= since:
                    found.append(file.read_bytes())
    return b"\n".join(found)


@pytest.fixture(scope="module")
def needles(haul: Haul) -> Needles:
    """All secrets: those that the actors need, and those that strangers sent."""
    files = {
        **{f"TLS key of {name}": haul.folder / "certs" / f"{name}.key" for name in (*NAMES, "ca")},
        "the guest's SSH key": haul.folder / "guest_key",
        "the site's SSH key": haul.site.admin_key,
        "the directory's password": haul.site.directory.password_file,
    }
    return Needles(
        {name: of_file(file) for name, file in files.items()}
        | {f"token of {role}": [secret.encode()] for role, secret in haul.tokens.items()}
        | {"the database's password": [haul.postgres.password.encode()]}
        | haul.keys
        | haul.planted
    )


NAMES = ("site", "broker", "guest")
PLACES = {
    "log": b"paramiko",
    "commands": b"actors.xml",
    "answers": b"urn:shirako:problem:",
    "processes": b"shirako.cli",
    "ledgers": b"node-1",
    "backups": b"node-1",
    "server's log": b"database system",
    "state": b"sha256",
    "directory": b"ou=",
    "nodes": b"root:",
}
"""Where is searched, and what is there if there is anything."""


@pytest.mark.parametrize("place_", PLACES)
def test_no_secret_is_there(haul: Haul, needles: Needles, place_: str) -> None:
    hay = bytes(haul.gathered[place_])
    assert PLACES[place_] in hay, "nothing was gathered"
    assert needles.within(hay) == {}


def test_what_was_to_go_wrong_did(haul: Haul) -> None:
    """Every kind of error was there to say too much."""
    assert {len(several) for several in haul.keys.values()} >= {2, 4}, "a key was replaced"
    assert {400, 401, 403, 404, 405, 422} <= set(haul.statuses)
    log = haul.gathered["log"].decode(errors="replace")
    told = haul.gathered["commands"].decode(errors="replace")
    for text in ("a connection from 127.0.0.1 came to nothing", "refused from ? (signature)"):
        assert text in log, text
    for text in (
        "holds a password",
        "DOCTYPE",
        "a bare & is not XML",
        "is not a JWK",
        "authentication failed",
    ):
        assert text in told, text


@pytest.mark.parametrize("form", range(6))
def test_a_secret_is_found_in_each_form(needles: Needles, haul: Haul, form: int) -> None:
    secret = haul.tokens["guest"].encode()
    written = (
        secret,
        base64.b64encode(b'{"x":"' + secret + b'"}'),
        base64.urlsafe_b64encode(b'{"x1":"' + secret + b'"}'),
        secret.hex().encode(),
        quote(secret.decode()).encode(),
        next(forms(secret)),
    )[form]
    assert set(needles.within(b"before " + written + b" after")) == {"token of guest"}
    assert needles.within(b"before after") == {}
