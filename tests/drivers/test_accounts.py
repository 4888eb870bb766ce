"""Names of accounts and hosts: valid whatever a guest writes, and never two slices' at once."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from shirako.handlers import UnitJob
from shirako_drivers.accounts import AccountOptions, account_of, host_name

OPTIONS = AccountOptions()


def job_of(slice_: str, **properties: str) -> UnitJob:
    return UnitJob(
        unit="node-1.site",
        epoch=1,
        lease="lease-1",
        slice=slice_,
        type="node",
        end=2_000_000_000,
        node={},
        properties={name.replace("_", "."): text for name, text in properties.items()},
        keys=(),
        outputs={},
    )


@given(st.text(min_size=1), st.text(), st.text(), st.text())
def test_any_text_makes_a_valid_account_and_host_name(
    slice_: str, user: str, guest: str, prefix: str
) -> None:
    job = job_of(slice_, user=user, guest=guest, host_prefix=prefix)
    account = account_of(job, OPTIONS)
    assert re.fullmatch(r"s-[a-z0-9_-]{1,29}", account.name)
    assert 20_000 <= account.uid < 60_000
    assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", host_name(job))


def test_a_plain_slice_name_is_read_in_the_account() -> None:
    assert account_of(job_of("green"), OPTIONS).name == "s-green"


def test_slices_that_look_alike_get_different_accounts() -> None:
    jobs = [
        job_of("blue"),
        job_of("Blue"),
        job_of("blue "),
        job_of("blue", guest="A"),
        job_of("blue", guest="B"),
        job_of("red", user="blue"),
        job_of("b" * 40),
        job_of("b" * 41),
    ]
    assert len({account_of(job, OPTIONS).name for job in jobs}) == len(jobs)


def test_the_uid_belongs_to_the_slice_whatever_the_user_is_called() -> None:
    first = account_of(job_of("blue", user="ann"), OPTIONS)
    second = account_of(job_of("blue", user="bob"), OPTIONS)
    assert first.uid == second.uid


def test_a_host_prefix_comes_before_the_unit() -> None:
    assert host_name(job_of("blue", host_prefix="Web; reboot")) == "web-reboot-node-1.site"
