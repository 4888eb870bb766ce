"""Names that lead elsewhere, files that others may read, and tokens that somebody guesses."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import aiohttp
import pytest

from shirako.api import Tokens, tokens
from shirako.clock import new_token
from shirako.descriptor import DescriptorInvalid, read_descriptor
from tests.security.conftest import Deployment, shirako

ELSEWHERE = (
    "../x",
    "..",
    "/etc/x",
    "a/../../x",
    "a/b",
    "~root",
    "a\\b",
    "-x",
    "a b",
    "a\u0000b",
    "",
)


@pytest.mark.parametrize("name", ELSEWHERE)
async def test_a_slice_is_no_path(plain: Deployment, name: str) -> None:
    async with plain.apart("guest"), aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {plain.tokens['guest']}"}
        for field in ("slice", "type"):
            wish = {"slice": "blue", "type": "node", "units": 1, "duration": "1h", field: name}
            url = f"{plain.url('guest')}/api/v1/leases"
            async with session.post(url, json=wish, headers=headers) as answer:
                assert answer.status == 422
                assert (await answer.json(content_type=None))["field"] == field


@pytest.mark.parametrize("name", [one for one in ELSEWHERE if "\0" not in one])
@pytest.mark.parametrize(
    "place", ['name="guest"', 'prefix="n"', 'type="node" assignment', 'name="share"', 'to="guest"']
)
def test_no_name_of_a_descriptor_is_a_path(plain: Deployment, place: str, name: str) -> None:
    """An actor's name becomes that of its ledger, its key and its certificate."""
    path = plain.descriptor.path
    text = path.read_text()
    attribute, _, rest = place.partition('="')
    after = rest.partition('"')[2]
    assert place in text
    path.write_text(text.replace(place, f'{attribute}="{name}"{after}', 1))
    with pytest.raises(DescriptorInvalid) as caught:
        read_descriptor(path, keys=False)
    assert any("write " in fault.mend for fault in caught.value.faults)


@pytest.mark.parametrize("name", [one for one in ELSEWHERE if not one.startswith("-")])
def test_no_token_or_certificate_is_a_path(one_way: Deployment, name: str) -> None:
    before = sorted(one_way.folder.parent.rglob("*"))
    with pytest.raises(ValueError, match="a name is"):
        Tokens(one_way.descriptor.state).create(name, "guest")
    if "\0" not in name:
        told = shirako("ca", "issue", str(one_way.certificates), name, "--client", status=1)
        assert "can not be a certificate's name" in told
    assert sorted(one_way.folder.parent.rglob("*")) == before


def test_what_is_secret_is_its_owners_alone(one_way: Deployment) -> None:
    files = [
        *one_way.folder.rglob("*.jwk"),
        *one_way.certificates.glob("*.key"),
        *one_way.descriptor.state.rglob("tokens.*"),
    ]
    private = [file for file in files if not file.name.endswith(".pub.jwk")]
    assert len(private) >= 3 + 5 + 1
    assert [file.name for file in private if file.stat().st_mode & 0o077] == []


def test_keys_for_tls_that_others_may_read_are_refused(one_way: Deployment) -> None:
    (one_way.certificates / "guest.key").chmod(0o640)
    with pytest.raises(DescriptorInvalid, match="can be read by others"):
        read_descriptor(one_way.descriptor.path)


# Tokens -----------------------------------------------------------------------------------------


def test_a_token_is_not_guessed() -> None:
    """256 bits of chance each, of which the file has only a digest."""
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    for one in made:
        assert len(base64.urlsafe_b64decode(one.removeprefix("shk_") + "=")) == 32


def test_the_file_of_tokens_lets_nobody_in(tmp_path: Path) -> None:
    known = Tokens(tmp_path / "state")
    secret = known.create("ann", "guest")
    text = known.path.read_text()
    assert secret not in text
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert digest in text
    assert known.find(secret) is not None
    assert known.find(digest) is None


def test_each_token_is_compared_whole_whichever_is_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a look-up takes says nothing about how much of a guess was right."""
    known = Tokens(tmp_path / "state")
    secrets = [known.create(name, "guest") for name in ("ann", "bob", "cay")]
    compared: list[tuple[str, str]] = []
    whole = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return whole(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for asked in (*secrets, "wrong", ""):
        compared.clear()
        known.find(asked)
        assert len(compared) == 3
        assert {len(one) for pair in compared for one in pair} == {64}


def test_tokens_have_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "TOKENS_MAX", 1)
    known = Tokens(tmp_path / "state")
    known.create("ann", "guest")
    with pytest.raises(ValueError, match="there are 1 tokens already"):
        known.create("bob", "guest")


async def test_a_token_for_one_actor_is_none_at_another(plain: Deployment) -> None:
    secret = Tokens(plain.descriptor.state).create("ops", "site-admin", "site")
    async with plain.apart("site", "guest"), aiohttp.ClientSession() as session:
        statuses = []
        for actor in ("site", "guest"):
            headers = {"Authorization": f"Bearer {secret}"}
            url = f"{plain.url(actor)}/api/v1/status"
            async with session.get(url, headers=headers) as answer:
                statuses.append(answer.status)
        assert statuses == [200, 401]
