"""Rule 7 after a restore: what is said has numbers that no peer has seen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shirako.actors.restored import Restored, begun, renumbered
from shirako.core.exchange import Line
from shirako.core.messages import Close, Failed, Message, Redeem, UpdateLease
from tests.recovery.conftest import HOUR, Past
from world import until

MESSAGES: tuple[Message, ...] = (
    Close(rid="r", holder="h", ticket=()),
    Redeem(rid="r", holder="h", ticket=(), slice="s", least_units=1),
    UpdateLease(rid="r", holder="h"),
    Failed(rid="r", holder="h", answers=1, code="c", reason="r"),
)


@given(
    before=st.lists(st.sampled_from(MESSAGES), max_size=6),
    since=st.lists(st.sampled_from(MESSAGES), max_size=6),
    taken=st.integers(0, 8),
    numbers_after=st.integers(1, 12),
)
def test_what_was_said_keeps_its_number_and_the_rest_is_beyond(
    before: list[Message], since: list[Message], taken: int, numbers_after: int
) -> None:
    line = Line()
    for message in before:
        line = line.say(message)
    line = line.delivered(taken)
    said = line
    for message in since:
        said = said.say(message)
    (made,) = renumbered({"peer": line}, {"peer": said}, numbers_after).values()
    old = [m for m in said.unacked if m.n <= line.sent]
    new = [m for m in made.unacked if m.n > line.sent]
    assert [m for m in made.unacked if m.n <= line.sent] == old
    assert len(new) == len(said.unacked) - len(old)
    assert all(m.n > numbers_after for m in new)
    numbers = [m.n for m in made.unacked]
    assert numbers == sorted(set(numbers))
    if since:
        assert made.sent == made.unacked[-1].n
        assert made.last == made.unacked[-1]
    else:
        assert made == said


@given(st.integers(1000, 2**50), st.integers(0, 2**50))
def test_each_restore_goes_beyond_the_one_before(now_ms: int, numbers_after: int) -> None:
    made = begun(Restored(actor="a", role="r", numbers_after=numbers_after), now_ms, {"d": 7})
    assert made.numbers_after >= now_ms
    assert made.numbers_after > numbers_after
    assert made.unsold == {"d": 7}
    assert begun(made, now_ms + 1, {}) == made


@pytest.mark.parametrize("name", ["site", "broker", "guest"])
async def test_a_lease_lives_on_after_a_restore_of_either_end(past: Past, name: str) -> None:
    """From before many messages: each of them had a number, which is used no second time."""
    key = await past.request(2)
    await past.reach("guest", key, "Active")
    file = await past.back_up(name)
    for _ in range(3):
        await past.extend(key, HOUR)
    end = past.end("guest", key)
    await past.restored(name, file)
    await until(lambda: past.end("site", key) == past.end("guest", key) == end)
    await past.recover(name, backup_was_current=True)
    if name != "broker":  # which has no way to learn what it sold
        await past.extend(key, HOUR)
    await past.close(key)
    for other in ("guest", "site", "broker"):
        await past.reach(other, key, "Closed")
    assert past.booked() == 0


async def test_a_backup_of_what_was_restored_is_restored(past: Past) -> None:
    key = await past.request()
    await past.reach("guest", key, "Active")
    first: Any = None
    for _ in range(2):
        site = await past.restored("site", await past.back_up("site"))
        await past.turns(1)
        assert site.role.held
        if first is not None:
            assert site.role.restored.numbers_after > first.numbers_after
        first = site.role.restored
        await past.recover("site")
        await past.extend(key, HOUR)
    await past.close(key)
    await past.reach("guest", key, "Closed")
