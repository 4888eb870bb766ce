"""What strangers and forgers send to `/messages`, over HTTP and with correct signatures where a
forger can have them: refused, counted, logged in moderation, and without any effect.

Every test ends with the three actors holding what they held before, and with nothing in their logs
that a programmer would have to look at.
"""

from __future__ import annotations

import gzip
import json
import socket
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rest import Rest
from shirako.core import messages
from shirako.core.claims import Party
from shirako.core.terms import Term
from shirako.transport.envelope import Refusal, read_acknowledgement, seal
from shirako.trust import PrivateKey, PublicKey
from trio import Trio

pytestmark = [pytest.mark.real]

ACTORS = ("site", "broker", "guest")
ENVELOPE_TYPE = "shirako-envelope+jws"
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    status: int
    type: str
    body: bytes

    @property
    def kind(self) -> str:
        """Of the problem that it tells."""
        assert self.type == "application/problem+json", self
        told = json.loads(self.body)
        assert told["status"] == self.status
        assert told["detail"]
        return str(told["type"]).removeprefix("urn:shirako:problem:")


class Door:
    """`/messages` of one actor, as anybody finds it on the network."""

    def __init__(self, api: Rest) -> None:
        self.api = api
        self._address = urlsplit(api.url).netloc
        about = json.loads(self.call("GET", "/.well-known/shirako").body)
        self.key = PublicKey(about["jwk"]["x"])
        assert self.key.kid == about["kid"]

    def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        connection = HTTPConnection(self._address, timeout=20)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            type_ = answer.headers.get_content_type()
            return Answer(answer.status, type_, answer.read())
        finally:
            connection.close()

    def post(self, envelope: bytes, **headers: str) -> Answer:
        return self.call("POST", "/messages", envelope, **headers)

    def say(self, key: PrivateKey, *said: messages.Message | dict[str, object]) -> list[Refusal]:
        """Send good envelope of these messages; returns those refused, as the actor signed it."""
        encode = [
            json.dumps(m).encode() if isinstance(m, dict) else messages.encode(m) for m in said
        ]
        n = time.time_ns()
        answer = self.post(seal(key, self.key.kid, n, now_ms(), encode))
        assert answer.status == 202, answer
        return list(read_acknowledgement(answer.body, self.key, key.public.kid, n).refused)

    def refusals(self) -> dict[str, int]:
        counters = self.api.get("/status")["counters"]
        return {name: n for name, n in counters.items() if name.startswith("refused.")}

    def refused(self, kind: str, act: Callable[[], T]) -> T:
        """What `act` gives; one refusal of this kind is counted meanwhile, and no other."""
        before = self.refusals()
        given = act()
        after = self.refusals()
        name = f"refused.{kind}"
        assert after == {**before, name: before.get(name, 0) + 1}
        return given


@dataclass(frozen=True)
class Scene:
    """Three actors, and a thief who knows all that is public about them."""

    trio: Trio
    site: Door
    broker: Door
    guest: Door
    guest_key: PrivateKey
    thief: PrivateKey = field(default_factory=PrivateKey.generate)

    def log(self, name: str) -> str:
        return self.trio.processes.log_of(name).read_text()

    def held(self) -> dict[str, list[Any]]:
        """Everything that is not over, by actor."""
        listed = {
            "site": self.trio.site.get("/site/leases")["leases"],
            "broker": self.trio.broker.get("/broker/leases")["leases"],
            "guest": self.trio.guest.get("/leases")["leases"],
        }
        return {
            name: [one["id"] for one in all_ if not one["final"]] for name, all_ in listed.items()
        }


@pytest.fixture(scope="module")
def scene(standing_trio: Trio) -> Scene:
    three = standing_trio
    keys = three.processes.log_of("guest").parent / "keys"
    # the actors' own tokens do not let a guest see counters; the door asks as an admin
    guest = Rest(three.guest.url, three.site._token)
    return Scene(
        three,
        Door(three.site),
        Door(three.broker),
        Door(guest),
        guest_key=PrivateKey.read(keys / "guest.jwk"),
    )


@pytest.fixture(autouse=True)
def nothing_comes_of_it(scene: Scene) -> Iterator[None]:
    held, logged = scene.held(), {name: len(scene.log(name)) for name in ACTORS}
    yield
    assert scene.held() == held
    for name in ACTORS:
        new = scene.log(name)[logged[name] :]
        assert "Traceback" not in new, new
        assert "ERROR" not in new, new


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def sealed(scene: Scene, header: dict[str, object] | None = None, **payload: object) -> bytes:
    """An envelope of the thief's for the site, good but for what is given here."""
    key = Ed25519PrivateKey.generate()
    x = base64url(key.public_key().public_bytes_raw())
    kid = PublicKey(x).kid
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": x}
    head = {"alg": "Ed25519", "typ": ENVELOPE_TYPE, "kid": kid, "jwk": jwk, **(header or {})}
    body = {"iss": kid, "aud": scene.site.key.kid, "n": 1, "t": now_ms(), "messages": [], **payload}
    text = ".".join(base64url(json.dumps(part).encode()) for part in (head, body))
    return f"{text}.{base64url(key.sign(text.encode()))}".encode()


def unsigned(scene: Scene) -> bytes:
    return json.dumps({"iss": scene.thief.public.kid, "aud": scene.site.key.kid}).encode()


def pinned_kid(scene: Scene) -> bytes:
    return sealed(scene, {"kid": scene.broker.key.kid}, iss=scene.broker.key.kid)


def another_sender(scene: Scene) -> bytes:
    return sealed(scene, iss=scene.broker.key.kid)


def without_signature(scene: Scene) -> bytes:
    return sealed(scene, {"alg": "none"}).rsplit(b".", 1)[0] + b"."


def cut_in_signature(scene: Scene) -> bytes:
    return sealed(scene)[:-20]


def cut_in_payload(scene: Scene) -> bytes:
    return sealed(scene)[:400]


def changed_payload(scene: Scene) -> bytes:
    head, body, signature = sealed(scene).split(b".")
    return b".".join((head, body[:-4] + b"AAAA", signature))


def other_audience(scene: Scene) -> bytes:
    return sealed(scene, aud=scene.broker.key.kid)


def key_without_x(scene: Scene) -> bytes:
    return sealed(scene, {"jwk": {"kty": "OKP", "crv": "Ed25519"}})


def deep(_scene: Scene) -> bytes:
    return base64url(b"[" * 100_000).encode() + b".e30.AAAA"


WRONG: list[tuple[Callable[[Scene], bytes], int, str]] = [
    (unsigned, 401, "signature"),
    (pinned_kid, 401, "signature"),
    (another_sender, 401, "signature"),
    (without_signature, 401, "signature"),
    (lambda s: sealed(s, {"alg": "none"}), 401, "signature"),
    (lambda s: sealed(s, {"alg": "EdDSA"}), 401, "signature"),
    (lambda s: sealed(s, {"alg": "HS256"}), 401, "signature"),
    (lambda s: sealed(s, {"typ": "shirako-claim+jwt"}), 401, "signature"),
    (lambda s: sealed(s, {"typ": None}), 401, "signature"),
    (lambda s: sealed(s, {"crit": ["site"], "site": "any"}), 401, "signature"),
    (lambda s: sealed(s, {"crit": ["b64"], "b64": False}), 401, "signature"),
    (key_without_x, 401, "signature"),
    (cut_in_signature, 401, "signature"),
    (cut_in_payload, 401, "signature"),
    (changed_payload, 401, "signature"),
    (deep, 401, "signature"),
    (lambda _: b"", 401, "signature"),
    (lambda _: b"..", 401, "signature"),
    (lambda _: bytes(range(256)), 400, "malformed"),
    (lambda s: sealed(s, messages="none"), 400, "malformed"),
    (lambda s: sealed(s, n="one"), 400, "malformed"),
    (other_audience, 403, "audience"),
    (lambda s: sealed(s, t=now_ms() - 120_000), 403, "stale"),
    (lambda s: sealed(s, t=now_ms() + 120_000), 403, "stale"),
    (lambda s: sealed(s, messages=[{}] * 513), 413, "oversize"),
    (lambda s: sealed(s, messages=["x" * 1_100_000]), 413, "oversize"),
]
NAMES = [
    *("unsigned", "pinned-kid", "another-sender", "no-signature", "alg-none", "alg-EdDSA"),
    *("alg-HS256", "wrong-typ", "no-typ", "critical", "b64", "no-x", "cut-in-signature"),
    *("cut-in-payload", "changed", "deep", "empty", "dots", "bytes", "no-messages", "no-number"),
    *("other-audience", "two-minutes-old", "two-minutes-ahead", "many-messages", "too-long"),
]


@pytest.mark.parametrize(("make", "status", "kind"), WRONG, ids=NAMES)
def test_an_envelope_that_proves_nothing(
    scene: Scene, make: Callable[[Scene], bytes], status: int, kind: str
) -> None:
    answer = scene.site.refused(kind, lambda: scene.site.post(make(scene)))
    assert (answer.status, answer.kind) == (status, kind)


def test_an_envelope_without_fault_is_taken(scene: Scene) -> None:
    """So the refusals above are for the faults and for nothing else."""
    assert scene.site.post(sealed(scene)).status == 202


def test_only_posts_are_taken(scene: Scene) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = scene.site.call(method, "/messages", b"")
        assert (answer.status, answer.kind) == (405, "method")


def test_a_compressed_body_may_not_grow(scene: Scene) -> None:
    """BOUNDED: 64 MB of zeros are 64 KB on the wire, and never 64 MB in memory."""
    pid = scene.trio.processes._running["site"].pid
    bomb = gzip.compress(bytes(64_000_000), 9)
    before = peak_kb(pid)
    answer = scene.site.post(bomb, Content_Encoding="gzip")
    assert 400 <= answer.status < 500, answer
    assert answer.kind
    assert peak_kb(pid) - before < 20_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
def test_a_body_that_is_not_what_its_header_says(scene: Scene, encoding: str) -> None:
    answer = scene.site.post(b"certainly not compressed", Content_Encoding=encoding)
    assert 400 <= answer.status < 500, answer
    assert answer.kind


@pytest.mark.parametrize(
    "request_",
    [
        "POST /messages HTTP/1.1\r\nHost: site\r\nContent-Length: 500\r\n\r\nabc",
        "POST /messages HTTP/1.1\r\nHost: site\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\nabc",
        "POST /messages HTTP/1.1\r\nHost: site\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "POST /messages HTTP/1.1\r\nHost: site\r\nContent-Length: many\r\n\r\n",
        "POST /messages HTTP/9.9\r\n\r\n",
        "not even HTTP\r\n\r\n",
    ],
    ids=["short", "short-chunk", "no-chunk", "no-length", "version", "no-http"],
)
def test_a_request_that_is_broken_off_or_no_request(scene: Scene, request_: str) -> None:
    address = urlsplit(scene.trio.site.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(request_.encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert b"500" not in answer.split(b"\r\n")[0]
    assert scene.site.post(sealed(scene)).status == 202


def peak_kb(pid: int) -> int:
    """The most memory that a process has had so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def test_nobody_can_fill_the_log(scene: Scene) -> None:
    """Counted each time, logged once a peer and minute for each kind of fault."""

    def lines() -> int:
        return scene.log("site").count("refused from ? (audience)")

    seen, begun = lines(), time.monotonic()
    before = scene.site.refusals().get("refused.audience", 0)
    for _ in range(50):
        scene.site.post(other_audience(scene))
    assert scene.site.refusals().get("refused.audience", 0) == before + 50
    minutes = 1 + (time.monotonic() - begun) / 60
    assert lines() - seen <= minutes + 1


# Envelopes that are good, with messages that are not ---------------------------------------------


def ticket_request(scene: Scene, rid: str, n: int = 1, units: int = 99) -> messages.TicketRequest:
    """By the guest of the descriptor; more units than there are, so that it is soon over."""
    key, now = scene.guest_key.public, int(time.time())
    return messages.TicketRequest(
        rid=rid,
        holder=key.kid,
        n=n,
        guest=Party(key.kid, key.x, scene.trio.guest.url, "guest"),
        slice="blue",
        type="node",
        units=units,
        least_units=units,
        term=Term(now, now + 600),
    )


def at_broker(scene: Scene, rid: str) -> list[Any]:
    found: list[Any] = scene.trio.broker.get(f"/broker/leases?id={rid}")["leases"]
    return found


def test_an_unknown_message_does_no_harm_to_its_neighbours(scene: Scene) -> None:
    unknown: dict[str, object] = {"is": "Teleport", "rid": "x", "holder": "y", "n": 1}
    good = ticket_request(scene, "neighbour")
    before = scene.broker.refusals().get("refused.malformed", 0)
    refused = scene.broker.say(scene.guest_key, unknown, good, {"is": 3}, {})
    assert [refusal.index for refusal in refused] == [0, 2, 3]
    assert not any(refusal.retry for refusal in refused)
    assert scene.broker.refusals()["refused.malformed"] == before + 3
    scene.trio.broker.until("/broker/leases?id=neighbour", lambda a: a["leases"][0]["final"])


def test_a_message_too_long_is_refused_alone(scene: Scene) -> None:
    long: dict[str, object] = {"is": "Close", "rid": "r" * 70_000, "holder": "h", "n": 1}
    good = ticket_request(scene, "beside-long")
    (refusal,) = scene.broker.refused(
        "oversize", lambda: scene.broker.say(scene.guest_key, long, good)
    )
    assert (refusal.index, refusal.code) == (0, "oversize")
    assert at_broker(scene, "beside-long")


def test_a_stranger_is_sold_nothing(scene: Scene) -> None:
    """By the kid it has, or by the guest's."""
    thief, now = scene.thief.public, int(time.time())
    own = messages.TicketRequest(
        rid="thieves",
        holder=thief.kid,
        n=1,
        guest=Party(thief.kid, thief.x, "http://127.0.0.1:9", "guest"),
        slice="blue",
        type="node",
        units=1,
        least_units=1,
        term=Term(now, now + 600),
    )
    for wanted in (own, ticket_request(scene, "thieves", units=1)):
        say = partial(scene.broker.say, scene.thief, wanted)
        (refusal,) = scene.broker.refused("stranger", say)
        assert not refusal.retry
    assert at_broker(scene, "thieves") == []


@pytest.fixture
def bought(scene: Scene) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
    """A live lease of the guest's, and its ticket, which somebody has got hold of."""
    lease = scene.trio.request()
    scene.trio.guest.until_state(lease, "Active")
    ticket = scene.trio.guest.get(f"/leases/{lease}/proofs")["ticket"]
    yield lease, tuple(map(tuple, ticket))
    state = scene.trio.guest.get(f"/leases/{lease}")["state"]
    assert state == "Active", "somebody else did something to it"
    close(scene, lease)


def close(scene: Scene, lease: str) -> None:
    scene.trio.guest.post(f"/leases/{lease}/close", {})
    assert scene.trio.guest.until_state(lease, "Closed")
    for api, path in ((scene.trio.site, "/site"), (scene.trio.broker, "/broker")):
        api.until(f"{path}/leases?id={lease}", lambda a: all(one["final"] for one in a["leases"]))


def redeem(
    key: PublicKey, rid: str, ticket: tuple[tuple[str, ...], ...], n: int = 100
) -> messages.Redeem:
    return messages.Redeem(rid=rid, holder=key.kid, n=n, ticket=ticket, slice="blue", least_units=1)


Bought = tuple[str, tuple[tuple[str, ...], ...]]


def test_a_stolen_ticket_is_worth_nothing(scene: Scene, bought: Bought) -> None:
    """ROOTED: the presenter proves that it is the holder; a ticket's text alone is not enough."""
    lease, ticket = bought
    thief, guest = scene.thief.public, scene.guest_key.public
    for stolen in (
        redeem(thief, lease, ticket),
        redeem(thief, "another", ticket),
        redeem(guest, lease, ticket),
        messages.Close(rid=lease, holder=guest.kid, n=100, ticket=ticket),
        messages.Close(rid="another", holder=thief.kid, n=100, ticket=ticket),
        messages.ExtendLease(rid=lease, holder=guest.kid, n=100, ticket=ticket),
    ):
        before = sum(scene.site.refusals().values())
        (refusal,) = scene.site.say(scene.thief, stolen)
        assert not refusal.retry, refusal
        assert refusal.reason
        assert sum(scene.site.refusals().values()) == before + 1
    assert [one["id"] for one in scene.trio.site.get(f"/site/leases?id={lease}")["leases"]] == [
        lease
    ]
    assert scene.trio.site.get("/site/leases?id=another")["leases"] == []


def test_a_ticket_is_spent_once(scene: Scene, bought: Bought) -> None:
    """Rule 1: not even its holder redeems it again, under this name or another."""
    lease, ticket = bought
    before = scene.trio.site.get(f"/site/leases?id={lease}")["leases"]
    (refusal,) = scene.site.say(scene.guest_key, redeem(scene.guest_key.public, "second", ticket))
    assert not refusal.retry, refusal
    assert scene.trio.site.get("/site/leases?id=second")["leases"] == []
    # under its own name it is a request that the lease is past; nothing is set up a second time
    scene.site.say(scene.guest_key, redeem(scene.guest_key.public, lease, ticket, n=1))
    assert scene.trio.site.get(f"/site/leases?id={lease}")["leases"] == before


def test_an_old_ticket_is_not_good_again(scene: Scene) -> None:
    lease = scene.trio.request()
    scene.trio.guest.until_state(lease, "Active")
    ticket = tuple(map(tuple, scene.trio.guest.get(f"/leases/{lease}/proofs")["ticket"]))
    close(scene, lease)
    scene.site.say(scene.guest_key, redeem(scene.guest_key.public, lease, ticket))
    (refusal,) = scene.site.say(scene.guest_key, redeem(scene.guest_key.public, "later", ticket))
    assert not refusal.retry
    (ended,) = scene.trio.site.get(f"/site/leases?id={lease}")["leases"]
    assert ended["state"] == "Closed"


def test_a_captured_envelope_is_taken_once(scene: Scene) -> None:
    """Acknowledged again, since an answer may have been lost, and processed never again: also not
    by an actor that was restarted in between, nor by another one."""
    request = messages.encode(ticket_request(scene, "captured"))
    captured = seal(scene.guest_key, scene.broker.key.kid, time.time_ns(), now_ms(), [request])
    first = scene.broker.post(captured)
    assert first.status == 202
    scene.trio.broker.until("/broker/leases?id=captured", lambda a: a["leases"][0]["final"])
    (before,) = at_broker(scene, "captured")
    story = f"/broker/leases/{before['holder']}/captured/story"
    told = scene.trio.broker.get(story)
    assert scene.broker.post(captured) == first
    answer = scene.site.refused("audience", lambda: scene.site.post(captured))
    assert (answer.status, answer.kind) == (403, "audience")
    scene.trio.processes.kill("broker")
    scene.trio.processes.start("broker")
    assert scene.broker.post(captured).status == 202
    assert at_broker(scene, "captured") == [before]
    assert scene.trio.broker.get(story) == told


def test_a_lease_works_after_all_that(scene: Scene) -> None:
    lease = scene.trio.request(units=4)
    assert len(scene.trio.guest.until_state(lease, "Active")["held"]) == 4
    close(scene, lease)
    nodes = scene.trio.site.get("/site/nodes")["nodes"]
    assert {node["state"] for node in nodes} == {"free"}
