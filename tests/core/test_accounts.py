"""Accounts of receipts: who follows one knows what its writer wrote, and can be held to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shirako.core import account
from shirako.core.account import START, Account, Citation, Entry, Page, Posting

P = "parent"


@pytest.fixture(autouse=True)
def small_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "VOLUME_ENTRIES_MIN", 3)


steps = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 2), st.integers(0, 7)),
    max_size=40,
)
"""Claim, ticks until its term ends, units not freed, ticks that pass before it is given back."""


def written(plan: list[tuple[int, int, int, int]]) -> tuple[Account, list[Posting]]:
    """An account, and all postings ever made in it."""
    now, made = 100, []
    site = Account(P)
    for claim, left, kept, passing in plan:
        now += passing
        made.append(site.post(Entry(f"c{claim}", now + left, kept), now))
        if made[-1].place.number == 1:
            site.drop_old()
    return site, made


@given(steps)
def test_who_takes_the_postings_in_order_has_the_same_account(
    plan: list[tuple[int, int, int, int]],
) -> None:
    site, made = written(plan)
    broker = Account(P)
    for posting in made:
        assert not broker.holds(posting)
        assert broker.follows(posting)
        broker.take(posting)
        assert broker.holds(posting)
        assert not broker.follows(posting)
        if posting.place.number == 1:
            broker.drop_old()
    assert broker.place == site.place
    assert broker.postings() == site.postings()


@given(steps, st.data())
def test_no_other_posting_follows(
    plan: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    """Left out, out of turn, or with another content: it can not be told as the next one."""
    _, made = written(plan)
    if len(made) < 2:
        return
    number = data.draw(st.integers(0, len(made) - 2))
    broker = Account(P)
    for posting in made[:number]:
        broker.take(posting)
    due = made[number]
    assert broker.follows(due)
    for other in made[number + 1 :]:
        assert not broker.follows(other)
    for wrong in (
        replace(due, entry=replace(due.entry, jti="another")),
        replace(due, entry=replace(due.entry, kept=due.entry.kept + 1)),
        replace(due, place=replace(due.place, head="0" * 64)),
        replace(due, place=replace(due.place, number=due.place.number + 1)),
        replace(due, place=replace(due.place, volume=due.place.volume + 1)),
        replace(due, before=replace(due.before, head="0" * 64)),
        replace(due, parent="another"),
    ):
        assert not broker.follows(wrong)


@given(steps)
def test_a_restart_forgets_nothing(plan: list[tuple[int, int, int, int]]) -> None:
    site, made = written(plan)
    again = Account(P, reversed(site.volumes()), reversed(site.postings()))
    assert again.volumes() == site.volumes()
    assert again.postings() == site.postings()
    assert again.place == site.place
    for posting in made:
        assert again.page(posting.place) == site.page(posting.place)
        assert again.holds(posting) == site.holds(posting)


@given(steps)
def test_what_the_last_two_volumes_stand_for_can_be_shown(
    plan: list[tuple[int, int, int, int]],
) -> None:
    """A page says of every claim the least that a posting said is kept of it, unless its term was
    over when the volume was opened."""
    site, made = written(plan)
    volumes = sorted({p.place.volume for p in made})
    for number, posting in enumerate(made):
        page = site.page(posting.place)
        if posting.place.volume not in volumes[-2:]:
            continue
        assert page is not None
        assert page.cited_as() == posting.place
        said = [p.entry for p in made[: number + 1]]
        kept = page.kept()
        for entry in said:
            if entry.end > page.volume:
                assert kept[entry.jti] <= entry.kept
        for jti, units in kept.items():
            assert units in {entry.kept for entry in said if entry.jti == jti}


@given(steps)
def test_an_account_does_not_grow_with_what_is_over(
    plan: list[tuple[int, int, int, int]],
) -> None:
    """BOUNDED: it knows two volumes, each as long as what it carries, or as the least size."""
    site, _ = written(plan)
    volumes = site.volumes()
    assert len(volumes) <= 2
    for volume in volumes:
        own = [p for p in site.postings() if p.place.volume == volume.number]
        assert len(own) <= max(account.VOLUME_ENTRIES_MIN, len(volume.carried))
        assert all(entry.end > volume.number for entry in volume.carried)


def test_a_page_that_was_never_there_is_not_shown() -> None:
    site, made = written([(1, 50, 0, 1), (2, 50, 0, 1)])
    assert site.page(START) == Page()
    assert site.page(made[0].place) == Page(entries=(made[0].entry,))
    assert site.page(replace(made[0].place, head="0" * 64)) is None
    assert site.page(Citation(0, 3, made[1].place.head)) is None
    assert site.page(Citation(7, 1, made[1].place.head)) is None


@given(steps)
def test_pages_with_the_same_citation_say_the_same(
    plan: list[tuple[int, int, int, int]],
) -> None:
    """What was carried over can not be passed off as entries, nor the other way round."""
    site, made = written(plan)
    for posting in made:
        page = site.page(posting.place)
        if page is None or not page.entries:
            continue
        moved = Page(
            volume=page.volume,
            carried=(*page.carried, page.entries[0]),
            entries=page.entries[1:],
        )
        assert moved.cited_as() != posting.place
        for fewer in (replace(page, entries=page.entries[:-1]), replace(page, volume=1)):
            assert fewer.cited_as() != posting.place
