"""What older versions say is understood: messages, tokens, envelopes, problems, conversations.

Each folder beside this file is one version, recorded once (`python -m tests.recorded NAME`). When
`test_the_newest_recording_is_what_is_said_today` fails, what goes over the wire has changed: see
that the older recordings still pass, and record a new version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shirako import lineage, trust
from shirako.api.problems import Problem
from shirako.core import messages
from shirako.core.messages import Message
from shirako.transport.envelope import (
    Acknowledgement,
    Opened,
    Refusal,
    open_envelope,
    read_acknowledgement,
    seal,
)
from shirako.trust import Untrusted
from shirako.verifying.statements import verify
from tests.core.tokens import compact, content_of, header_of
from tests.recorded.conversations import OPEN, Player, read, states
from tests.recorded.examples import PROBLEMS, examples
from tests.verify.papers import BROKER, GUEST, NOW, RESELLER, SITE

HERE = Path(__file__).parent
VERSIONS = sorted(
    (path for path in HERE.glob("version_*") if path.is_dir()),
    key=lambda path: int(path.name.removeprefix("version_")),
)
NEWEST = VERSIONS[-1]


COMPOSED = ("ticket.json", "conflict.json", "lease_by_a_second_key")
"""Made of other tokens, or signed by another key than `kid` names."""


def files(kind: str, but: tuple[str, ...] = ()) -> list[Any]:
    """Each recorded file of a kind, of every version."""
    return [
        pytest.param(path, id=f"{version.name}-{path.name}")
        for version in VERSIONS
        for path in sorted((version / kind).iterdir())
        if path.name not in but
    ]


def opened(data: bytes) -> Opened:
    return open_envelope(data, SITE.public.kid, NOW * 1000, 1000, {GUEST.public.kid: GUEST.public})


# What is recorded ---------------------------------------------------------------------------------


def test_the_newest_recording_is_what_is_said_today() -> None:
    for name, data in examples():
        assert (NEWEST / name).read_bytes() == data, f"{name} is said in another way today"


def test_everything_that_is_said_is_recorded() -> None:
    tags = {str(kind.__struct_config__.tag) for kind in Message.__args__}
    assert {path.stem for path in (NEWEST / "messages").iterdir()} == tags
    for path in (NEWEST / "messages").iterdir():
        kind = next(k for k in Message.__args__ if k.__struct_config__.tag == path.stem)
        assert set(json.loads(path.read_bytes())) == {"is", *kind.__struct_fields__}
    types = [
        value
        for module in (trust, lineage)
        for name, value in vars(module).items()
        if name.endswith("_TYPE") and isinstance(value, str)
    ]
    assert len(types) >= 7
    for typ in types:
        assert (NEWEST / "tokens" / typ.replace("+", ".")).exists(), f"no {typ} is recorded"
    assert {path.stem for path in (NEWEST / "conversations").iterdir()} == set(OPEN)


# Messages -----------------------------------------------------------------------------------------


def changed(value: Any) -> Any:
    """With a member that nobody knows in every object; property lists take any member."""
    if isinstance(value, list):
        return [changed(one) for one in value]
    if not isinstance(value, dict):
        return value
    inner = {name: one if name == "properties" else changed(one) for name, one in value.items()}
    return {"hint": [1, {"x": None}], **inner, "urgency": "high"}


@pytest.mark.parametrize("path", files("messages"))
def test_messages_are_understood(path: Path) -> None:
    recorded = json.loads(path.read_bytes())
    message = messages.decode(path.read_bytes())
    said = json.loads(messages.encode(message))
    assert said["is"] == recorded["is"] == path.stem
    for name, value in recorded.items():
        assert said[name] == value, f"{name} got lost"


@pytest.mark.parametrize("path", files("messages"))
def test_members_that_are_not_known_are_ignored(path: Path) -> None:
    newer = changed(json.loads(path.read_bytes()))
    assert messages.decode(json.dumps(newer)) == messages.decode(path.read_bytes())


# Tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("tokens"))
def test_tokens_hold(path: Path) -> None:
    text = path.read_text()
    told = json.loads(text) if path.suffix == ".json" else text
    facts = list(verify(told, {SITE.public.kid: SITE.public}))
    assert len(facts) == 1


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_successions_are_read(version: Path) -> None:
    token = (version / "tokens" / "shirako-succession.jwt").read_text()
    (step,) = trust.lineage_in((token,)).successions
    assert (step.number, step.since, step.until) == (1, NOW - 300, NOW + 300)


@pytest.mark.parametrize("path", files("tokens", but=COMPOSED))
def test_members_of_tokens_that_are_not_known_are_ignored(path: Path) -> None:
    """A newer version may state more, at any depth; it signs that as well."""
    text = path.read_text()
    keys = {key.public.kid: key for key in (SITE, BROKER, RESELLER, GUEST)}
    header = header_of(text)
    newer = compact(keys[header["kid"]], header, changed(content_of(text)))
    (fact,) = verify(newer, {SITE.public.kid: SITE.public})
    (known,) = verify(text, {SITE.public.kid: SITE.public})
    assert type(fact) is type(known)
    assert _without_digests(fact) == _without_digests(known)


def _without_digests(fact: Any) -> Any:
    """A token of more bytes has another digest, and that alone is another."""
    told = msgspec.to_builtins(fact, enc_hook=lambda key: key.kid)
    for chain in told.get("chains", ()):
        for claim in chain:
            del claim["digest"]
    return told


# Envelopes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_envelopes_are_opened(version: Path) -> None:
    said = opened((version / "envelopes" / "all_messages").read_bytes())
    assert (said.sender.kid, said.n, said.sent_ms) == (GUEST.public.kid, 7, NOW * 1000)
    recorded = {path.stem: path.read_bytes() for path in (version / "messages").iterdir()}
    assert len(said.messages) == len(recorded)
    for message in said.messages:
        assert not isinstance(message, Refusal)
        assert message == messages.decode(recorded[str(type(message).__struct_config__.tag)])


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_answers_are_understood(version: Path) -> None:
    data = (version / "envelopes" / "answer").read_bytes()
    answer = read_acknowledgement(data, SITE.public, GUEST.public.kid, 7)
    assert isinstance(answer, Acknowledgement)
    told = [(refusal.index, refusal.code, refusal.retry) for refusal in answer.refused]
    assert told == [(1, "malformed", False), (4, "conflict", False), (6, "busy", True)]
    with pytest.raises(Untrusted):
        read_acknowledgement(data, SITE.public, GUEST.public.kid, 8)


@pytest.mark.parametrize("path", files("messages"))
def test_a_kind_that_is_not_known_is_refused_and_harms_no_neighbour(path: Path) -> None:
    """Politely: for good, by its place in the envelope, and with what is known in its stead."""
    known = path.read_bytes()
    unknown = json.dumps({**json.loads(known), "is": "Sublet"}).encode()
    said = opened(seal(GUEST, SITE.public.kid, 7, NOW * 1000, [known, unknown, known]))
    before, refusal, after = said.messages
    assert before == after == messages.decode(known)
    assert isinstance(refusal, Refusal)
    assert (refusal.index, refusal.code, refusal.retry) == (1, "malformed", False)
    assert "Sublet" in refusal.reason


# Problems -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("problems"))
def test_problems_are_read(path: Path) -> None:
    status, _, kind = path.stem.partition("_")
    document = json.loads(path.read_text())
    problem = Problem.read(int(status), document)
    assert (problem.status, problem.kind) == (int(status), kind)
    assert problem.document() == document
    newer = Problem.read(int(status), {**document, "urgency": "high"})
    assert (newer.kind, newer.detail, newer.field) == (problem.kind, problem.detail, problem.field)


def test_every_kind_of_problem_is_recorded() -> None:
    assert len(list((NEWEST / "problems").iterdir())) == len(PROBLEMS)


# Conversations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("conversations"))
def test_what_was_accepted_or_refused_still_is(path: Path) -> None:
    """With peers of that version, the leases come to the same end."""
    steps, ended = read(path)
    player = Player(path.stem)
    for number, step in enumerate(steps, 1):
        told = f"line {number}, at {step.at}: {step.said_by} said {bytes(step.message)[:200]!r}"
        assert player.play(step) == step.refused, told
    assert states(player.role) == ended.states


@pytest.mark.parametrize("path", files("conversations"))
def test_peers_that_say_more_are_understood(path: Path) -> None:
    """As above, with members in every message that nobody knows yet."""
    steps, ended = read(path)
    player = Player(path.stem)
    for step in steps:
        newer = step
        if step.said_by:
            said = json.dumps(changed(json.loads(bytes(step.message)))).encode()
            newer = msgspec.structs.replace(step, message=msgspec.Raw(said))
        assert player.play(newer) == step.refused
    assert states(player.role) == ended.states


def test_conversations_have_both_kinds_of_answers() -> None:
    for name in OPEN:
        steps, _ = read(NEWEST / "conversations" / f"{name}.jsonl")
        heard = [step for step in steps if step.said_by]
        assert any(not step.refused for step in heard)
        if name != "other":  # which is an honest peer among honest peers
            assert len({step.refused for step in heard}) > 2
        kinds = {json.loads(bytes(step.message))["is"] for step in heard}
        assert len(kinds) >= (3 if name != "other" else 2)
