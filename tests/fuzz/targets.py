"""What is fuzzed, each as a small function: bytes go in, and a word comes out that says what became
of them. An exception out of one is a defect; what bad input may raise is caught inside.

Used three ways: by the property tests, by the plain loop, and by the loop that coverage guides.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from pydantic import ValidationError

from shirako.api import models
from shirako.api.guest import wanted_term
from shirako.api.problems import Problem
from shirako.api.tokens import Tokens, TokensUnreadable
from shirako.cli.verify import verify
from shirako.clock import tick_of
from shirako.core import properties
from shirako.core.claims import Unfit, check_chain
from shirako.descriptor import DescriptorInvalid, read_descriptor
from shirako.handlers import UnitJob, Unsuitable
from shirako.transport.envelope import Rejected, open_envelope, read_acknowledgement, seal
from shirako.trust import (
    ACKNOWLEDGEMENT_TYPE,
    ENVELOPE_TYPE,
    PrivateKey,
    Untrusted,
    Verifier,
    public_path,
    read_public,
)
from shirako_drivers.accounts import AccountOptions, account_of
from shirako_drivers.program import program
from shirako_drivers.rendering import NodeFiles
from tests.core.cast import key_of
from tests.fuzz import life, receiving
from tests.fuzz.mutation import Change, change_bytes, change_json, change_xml
from tests.fuzz.tokens import closed, sign, signer

NOW = 1_800_000_000
SKEW_MS = 30_000
BROKER, GUEST = key_of("broker"), key_of("guest")
KNOWN = {GUEST.public.kid: GUEST.public}


@dataclass(frozen=True)
class Target:
    """Something that takes bytes from outside."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    """What is in order, made by code, to begin with."""
    run: Callable[[bytes], str]
    good: str
    """What becomes of seeds; a pattern. Of some seeds it is more."""
    change: Change = change_json


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _load(data: bytes) -> Any:
    """The document; None for what is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


# Envelopes ------------------------------------------------------------------------------------


def _envelope_body(**changes: Any) -> dict[str, Any]:
    says = [closed(one.says) for one in life.situations() if one.receiver == "broker"]
    good = {"iss": GUEST.public.kid, "aud": BROKER.public.kid, "n": 1, "t": NOW, "messages": says}
    return {**good, **changes}


def raw_envelope(data: bytes) -> str:
    """Bytes as they may come over a socket."""
    try:
        opened = open_envelope(data, BROKER.public.kid, NOW, SKEW_MS, KNOWN)
    except Rejected as rejected:
        return rejected.kind
    return f"{len(opened.messages)} messages"


def signed_envelope(data: bytes) -> str:
    """The same with a signature that holds: of a pinned peer, or of a stranger."""
    for name in ("stranger", "guest"):
        token = key_of(name).sign(ENVELOPE_TYPE, data, with_key=True)
        said = raw_envelope(token.encode())
    return said


def envelope_header(data: bytes) -> str:
    """Any header, over a payload in order."""
    return raw_envelope(b".".join((_b64(data), _b64(_dump(_envelope_body())), _b64(bytes(64)))))


def _b64(data: bytes) -> bytes:
    import base64

    return base64.urlsafe_b64encode(data).rstrip(b"=")


def acknowledgement(data: bytes) -> str:
    """What a peer answers: its bytes as they are, and with its signature."""
    signed = BROKER.sign(ACKNOWLEDGEMENT_TYPE, data).encode()
    for answer in (data, signed):
        try:
            read = read_acknowledgement(answer, BROKER.public, GUEST.public.kid, 1)
        except Untrusted:
            said = "untrusted"
        else:
            said = f"{len(read.refused)} refused"
    return said


# Statements -----------------------------------------------------------------------------------


@cache
def _statements() -> tuple[Any, ...]:
    """Every open token that was said in the recorded lives, and every chain."""
    found: dict[str, Any] = {}

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if "signed by" in value:
                found.setdefault(json.dumps(value), value)
            for part in value.values():
                look(part)
        elif isinstance(value, list):
            if value and all(isinstance(one, dict) and "signed by" in one for one in value):
                found.setdefault(json.dumps(value), value)
            for part in value:
                look(part)

    for one in life.situations():
        look(one.says)
    return tuple(found.values())


def statements(data: bytes) -> str:
    """Claims, leases, receipts and what else is signed, alone and in chains, rightly signed."""
    document = _load(data)
    made = closed(document)
    tokens = made if isinstance(made, list) else [made]
    texts = tuple(one for one in tokens if isinstance(one, str))
    verifier, site = Verifier(), key_of("site").public
    said = "untrusted"
    try:
        claims = verifier.chain(texts)
        if claims:
            said = "read"
            check_chain(claims, site.kid)
            said = "sound"
    except (Untrusted, Unfit):
        pass
    readers = [verifier.lease, verifier.receipt, *_more_readers(verifier)]
    for text in texts:
        for read in readers:
            for issuer in (site, BROKER.public):
                try:
                    read(text, issuer)
                    said = "read"
                except Untrusted:
                    pass
    return said


def _tokens() -> list[bytes]:
    return [sign(one).encode() for one in _statements() if isinstance(one, dict)]


def _more_readers(verifier: Verifier) -> list[Callable[..., object]]:
    return [verifier.revocation]


def bare_statement(data: bytes) -> str:
    """A chain of one token that is any text."""
    try:
        Verifier().chain((data.decode("latin-1"),))
    except Untrusted:
        return "untrusted"
    return "read"


# Messages -------------------------------------------------------------------------------------


def _cases(receiver: str) -> list[bytes]:
    return [
        _dump({"situation": number, "by": one.sender, "says": one.says})
        for number, one in enumerate(life.situations())
        if one.receiver == receiver
    ]


def message(data: bytes) -> str:
    """A message in an envelope of somebody's, to an actor in the middle of its work."""
    case = _load(data)
    if not isinstance(case, dict):
        case = {"says": case}
    number = case.get("situation")
    known = life.situations()
    situation = known[number % len(known) if isinstance(number, int) else 0]
    said = _dump(closed(case.get("says")))
    by = signer(case.get("by"))
    now_ms = situation.now * 1000
    envelope = seal(by, key_of(situation.receiver).public.kid, 1, now_ms, [said])
    return receiving.receive(situation, envelope)


# What people write ----------------------------------------------------------------------------


@cache
def _folder() -> Path:
    """A folder of this process's own, gone with it."""
    _folder.kept = tempfile.TemporaryDirectory(prefix="shirako-fuzz-")  # type: ignore[attr-defined]
    return Path(_folder.kept.name)  # type: ignore[attr-defined]


DESCRIPTOR = b"""<actors xmlns="urn:shirako:actors:1" state="state" skew="10s">
  <authority name="site" url="http://127.0.0.1:8101" key="keys/site.jwk">
    <pool type="node.small" assignment="first-fit" setup-timeout="30s" probe="1m">
      <property name="machine.memory" value="2GB"/>
      <driver name="null" hang="setup"/>
      <units prefix="n" count="4"/>
      <unit name="x1" host="10.0.0.1" port="22"/>
    </pool>
    <delegation name="share" to="broker" type="node.small" units="3" overbooking="1.5"/>
  </authority>
  <broker name="broker" url="http://127.0.0.1:8102" key="keys/broker.jwk" allocation="first-come"/>
  <service-manager name="guest" url="http://127.0.0.1:8103" key="keys/guest.jwk" demand="static">
    <guest-driver name="null"/>
  </service-manager>
  <edge from="site" to="broker"/>
  <edge from="broker" to="guest"/>
</actors>
"""


def descriptor(data: bytes) -> str:
    path = _folder() / "actors.xml"
    path.write_bytes(data)
    try:
        read_descriptor(path, keys=False)
    except DescriptorInvalid as error:
        return f"{min(len(error.faults), 9)} faults"
    return "read"


def token_file(data: bytes) -> str:
    state = _folder()
    (state / "tokens.json").write_bytes(data)
    try:
        return "found" if Tokens(state).find("shk_secret") else "not found"
    except TokensUnreadable:
        return "unreadable"


def _token_files() -> list[bytes]:
    digest = "a" * 64
    one = {"name": "ann", "role": "guest", "sha256": digest, "created": NOW}
    two = {"name": "ops", "role": "site-admin", "actor": "site", "sha256": digest, "created": 1}
    return [_dump([]), _dump([one, two])]


def key_file(data: bytes) -> str:
    path = _folder() / "site.jwk"
    said = "untrusted"
    for read in (read_public, PrivateKey.read):
        path.write_bytes(data)
        try:
            read(path)
            said = "read"
        except Untrusted:
            pass
    return said


def _key_files() -> list[bytes]:
    path = _folder() / "seed.jwk"
    if not path.exists():
        key_of("site").write(path)
    return [path.read_bytes(), public_path(path).read_bytes()]


def verified(data: bytes) -> str:
    """A file for `shirako verify`; tokens in it may stand open, and are signed."""
    path = _folder() / "proofs"
    document = _load(data)
    path.write_bytes(data if document is None else _dump(closed(document)))
    done = CliRunner().invoke(verify, [str(path), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code not in (0, 1, 2) or "Traceback" in done.output:
        raise AssertionError(f"verify ends with {done.exit_code}: {done.output}")
    if json.loads(done.stdout)["good"] is not (done.exit_code == 0):
        raise AssertionError(f"verify says one thing and ends with another: {done.output}")
    return f"exit {done.exit_code}"


def _proof_files() -> list[bytes]:
    tickets = [one.says["ticket"] for one in life.situations() if one.says.get("ticket")]
    leases = [one.says for one in life.situations() if one.says.get("lease")]
    receipts = [one.says for one in life.situations() if one.says.get("receipt")]
    whole = {
        "ticket": tickets[0],
        "lease": leases[0]["lease"],
        "receipt": receipts[0]["receipt"],
    }
    return [
        _dump(whole),
        _dump(tickets[-1]),
        _dump(whole["lease"]),
        sign(whole["receipt"]).encode(),
    ]


# REST -----------------------------------------------------------------------------------------

_LEASE = {
    "slice": "blue",
    "type": "node.small",
    "units": 2,
    "least_units": 1,
    "start": "2027-01-16T00:00:00Z",
    "end": "2027-01-17T00:00:00+01:00",
    "ssh_keys": ["ssh-ed25519 " + "A" * 68],
    "request": {"a": "b"},
    "configuration": {"host.prefix": "web"},
    "renew": True,
    "broker": "broker",
}
_BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LeaseRequest", _LEASE),
    ("LeaseRequest", {"slice": "a", "type": "b", "duration": "1h30m"}),
    ("ExtendRequest", {"end": "2027-01-18T00:00:00Z", "at_least": "2027-01-17T12:00:00Z"}),
    ("ExtendRequest", {"by": 3600}),
    ("CloseRequest", {"reason": "done"}),
    ("LeaseChange", {"renew": False}),
    ("QuarantineRequest", {"reason": "broken", "replace": True}),
    ("ReconcileRequest", {"dry_run": True}),
    ("ClockRequest", {"dry_run": True}),
    (
        "DelegationRequest",
        {
            "name": "more",
            "to": "broker",
            "type": "node.small",
            "units": 3,
            "start": "2027-01-16T00:00:00Z",
            "end": "2027-02-16T00:00:00Z",
            "overbooking": 1.5,
        },
    ),
)
_QUERIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LeasePage", {"limit": "10", "after": "x", "state": ["Active"], "slice": "blue"}),
    ("PeerLeasePage", {"limit": "10", "after": "x/y", "state": ["Active"], "id": "x"}),
    ("CalendarWindow", {"start": "2027-01-16T00:00:00Z", "end": "2027-01-17T00:00:00Z"}),
)


def rest_body(data: bytes) -> str:
    """A body: read as the server does, and turned into ticks."""
    case = _load(data)
    name, body = case if isinstance(case, list) and len(case) == 2 else ("LeaseRequest", case)
    known = {name: getattr(models, name) for name, _ in _BODIES}
    model = known.get(name if isinstance(name, str) else "", models.LeaseRequest)
    try:
        read = model.model_validate_json(_dump(body), strict=True)
    except ValidationError as error:
        return _told(error)
    json.loads(read.model_dump_json())
    if isinstance(read, models.LeaseRequest):
        try:
            wanted_term(read, NOW, 30)
        except Problem as problem:
            return problem.kind
    for moment in ("start", "end", "at_least"):
        if getattr(read, moment, None) is not None:
            tick_of(getattr(read, moment))
    return "taken"


def rest_query(data: bytes) -> str:
    """A query: everything in one is text."""
    case = _load(data)
    name, query = case if isinstance(case, list) and len(case) == 2 else ("LeasePage", case)
    known = {name: getattr(models, name) for name, _ in _QUERIES}
    model = known.get(name if isinstance(name, str) else "", models.LeasePage)
    given = {
        str(name): tuple(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in (query.items() if isinstance(query, dict) else ())
    }
    try:
        model.model_validate(given)
    except ValidationError as error:
        return _told(error)
    return "taken"


def _told(error: ValidationError) -> str:
    """The refusal as it is sent."""
    from shirako.api.routes import invalid

    problem = invalid(error)
    json.dumps(problem.document()).encode()
    return problem.kind


def problem_document(data: bytes) -> str:
    """What some server says is wrong: a client makes the best of it."""
    problem = Problem.read(400, _load(data))
    _dump(problem.document())
    return problem.title


# Handlers -------------------------------------------------------------------------------------

_TEMPLATE = """{{ unit }} {{ host_name }} {{ lease }} {{ slice }} {{ type }} {{ end_utc }}
{{ user }}{% for name, value in properties | dictsort %}{{ name }}={{ value }}
{% endfor %}{{ outputs }} {{ node.host }} {{ properties["host.prefix"] | upper }}
"""
_JOB = {
    "unit": "n1",
    "lease": "abc",
    "slice": "blue",
    "end": NOW,
    "properties": {"host.prefix": "web", "user": "ann", "guest": "kid"},
    "keys": ["ssh-ed25519 " + "A" * 68],
    "outputs": {"host": "10.0.0.1"},
}


@cache
def _files() -> NodeFiles:
    folder = _folder() / "templates" / "etc"
    folder.mkdir(parents=True)
    (folder / "lease.j2").write_text(_TEMPLATE)
    return NodeFiles(folder.parent)


def handler(data: bytes) -> str:
    """What a guest configures: checked at the door, rendered, and made a shell's program of."""
    case = _load(data)
    given = case if isinstance(case, dict) else {}
    values = {name: _texts(given.get(name)) for name in ("properties", "outputs")}
    keys = tuple(map(str, given["keys"])) if isinstance(given.get("keys"), list) else ()
    slice_name = str(given.get("slice", ""))
    if (
        properties.name_fault("slice", slice_name)
        or properties.fault(values["properties"])
        or properties.ssh_key_fault(keys)
    ):
        return "refused"
    end = given.get("end")
    job = UnitJob(
        unit="n1",
        epoch=7,
        lease=str(given.get("lease", "")),
        slice=slice_name,
        type="node",
        end=end if isinstance(end, int) and 0 < end < 253_402_300_800 else NOW,
        node={"host": "10.0.0.1"},
        properties=values["properties"],
        keys=keys,
        outputs=values["outputs"],
    )
    try:
        account = account_of(job, AccountOptions())
        rendered = _files().render(job, account)
        words = {"user": account.name, "keys": "\n".join(keys), **_variables(job)}
        _check_quoted(program("account", words, rendered), words)
    except Unsuitable:
        return "unsuitable"
    return "rendered"


def _texts(value: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _variables(job: UnitJob) -> dict[str, str]:
    named = {"slice": job.slice, "lease": job.lease}
    return {**named, **{f"p{n}": text for n, text in enumerate(job.properties.values())}}


def _check_quoted(made: str, words: dict[str, str]) -> None:
    """The shell's own view of the beginning: each variable holds what was meant, and no more."""
    beginning = "".join(f"{name}={shlex.quote(text)}\n" for name, text in words.items())
    if not made.startswith(beginning):
        raise AssertionError("values do not come first, or not as they are")
    expected = [f"{name}={text}" for name, text in words.items()]
    if shlex.split(beginning) != expected:
        raise AssertionError("a value got out of its quotes")


# All of them ----------------------------------------------------------------------------------

TARGETS: tuple[Target, ...] = (
    Target("raw-envelope", lambda: [_sealed(one) for one in life.situations()[:9]], raw_envelope,
           "1 messages", change_bytes),
    Target("signed-envelope", lambda: [_dump(_envelope_body())], signed_envelope, "[1-9][0-9]? m"),
    Target("envelope-header", lambda: [_dump(_header()), _dump(_header(jwk=None))],
           envelope_header, "signature"),
    Target("acknowledgement", lambda: [_dump(_acknowledgement())], acknowledgement, "1 refused"),
    Target("statements", lambda: [_dump(one) for one in _statements()], statements, "sound|read"),
    Target("bare-statement", lambda: [*_tokens(), b"a.b.c"], bare_statement, "read", change_bytes),
    Target("message-to-site", lambda: _cases("site"), message, "taken"),
    Target("message-to-broker", lambda: _cases("broker"), message, "taken"),
    Target("message-to-guest", lambda: _cases("guest"), message, "taken"),
    Target("descriptor", lambda: [DESCRIPTOR], descriptor, "read", change_xml),
    Target("token-file", _token_files, token_file, "not found"),
    Target("key-file", _key_files, key_file, "read"),
    Target("verify", _proof_files, verified, "exit 0"),
    Target("rest-body", lambda: [_dump(one) for one in _BODIES], rest_body, "taken"),
    Target("rest-query", lambda: [_dump(one) for one in _QUERIES], rest_query, "taken"),
    Target("problem", lambda: [_dump(Problem(409, "busy", "later", field="x").document())],
           problem_document, "Bad Request"),
    Target("handler", lambda: [_dump(_JOB)], handler, "rendered"),
)  # fmt: skip
BY_NAME = {target.name: target for target in TARGETS}


def _sealed(situation: life.Situation) -> bytes:
    said = [_dump(closed(situation.says))]
    return seal(signer(situation.sender), BROKER.public.kid, 1, NOW, said)


def _header(**changes: Any) -> dict[str, Any]:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": key_of("stranger").public.x}
    kid = key_of("stranger").public.kid
    return {"alg": "Ed25519", "typ": ENVELOPE_TYPE, "kid": kid, "jwk": jwk, **changes}


def _acknowledgement() -> dict[str, Any]:
    refused = [{"index": 0, "code": "busy", "reason": "later", "retry": True}]
    names = {"iss": BROKER.public.kid, "aud": GUEST.public.kid}
    return {**names, "n": 1, "t": NOW, "refused": refused}
