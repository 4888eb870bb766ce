"""Rule 13: ticks never go back, and a jump of the machine's clock ends no lease."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shirako.clock import RealClock, SteadyClock

DAY_MS = 24 * 3600 * 1000
BOUND_MS = 30_000


class Machine:
    """A machine's two clocks, set by hand."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000_000
        self.steady = 5_000
        self.clock = SteadyClock(lambda: self.wall, lambda: self.steady, BOUND_MS)

    def passes(self, ms: int) -> None:
        self.wall += ms
        self.steady += ms


def test_a_jump_of_a_day_is_shown_and_not_followed() -> None:
    for jump in (DAY_MS, -DAY_MS):
        machine = Machine()
        before = machine.clock.tick()
        machine.wall += jump
        machine.passes(10_000)
        assert machine.clock.tick() == before + 10
        assert machine.clock.jump_ms() == jump


def test_a_jump_that_is_undone_is_forgotten() -> None:
    machine = Machine()
    before = machine.clock.tick()
    machine.wall += DAY_MS
    machine.clock.tick()
    machine.wall -= DAY_MS - 200  # put right, not to the millisecond
    assert machine.clock.jump_ms() == 0
    assert machine.clock.milliseconds() == machine.wall
    assert machine.clock.tick() == before


def test_a_confirmed_jump_is_followed_and_ticks_still_do_not_go_back() -> None:
    machine = Machine()
    before = machine.clock.tick()
    machine.wall += DAY_MS
    machine.clock.confirm()
    assert machine.clock.jump_ms() == 0
    assert machine.clock.tick() == before + DAY_MS // 1000
    machine.wall -= DAY_MS
    machine.clock.confirm()
    machine.passes(5_000)
    assert machine.clock.tick() == before + DAY_MS // 1000
    assert machine.clock.milliseconds() == machine.wall


def test_small_corrections_and_drift_are_followed() -> None:
    machine = Machine()
    for _ in range(1000):
        machine.passes(1000)
        machine.wall += 100  # in all more than three times the bound
        assert machine.clock.milliseconds() == machine.wall
        assert machine.clock.jump_ms() == 0


def test_a_machine_that_comes_up_in_the_past_goes_on_where_its_ledger_ends() -> None:
    machine = Machine()
    last = machine.clock.tick() + DAY_MS // 1000
    machine.clock.not_before(last)
    machine.passes(3_000)
    assert machine.clock.tick() == last + 3
    assert machine.clock.jump_ms() == -DAY_MS
    machine.clock.confirm()
    assert machine.clock.tick() == last + 3


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("passes"), st.integers(0, 100_000)),
            st.tuples(st.just("jumps"), st.integers(-2 * DAY_MS, 2 * DAY_MS)),
            st.tuples(st.just("confirm"), st.just(0)),
            st.tuples(st.just("not before"), st.integers(0, 3_000_000_000)),
        )
    )
)
def test_ticks_never_go_back(happens: list[tuple[str, int]]) -> None:
    machine = Machine()
    last = machine.clock.tick()
    for what, amount in happens:
        if what == "passes":
            machine.passes(amount)
        elif what == "jumps":
            machine.wall += amount
        elif what == "confirm":
            machine.clock.confirm()
        else:
            machine.clock.not_before(amount)
        now = machine.clock.tick()
        assert now >= last
        last = now


def test_the_machines_own_clocks_agree() -> None:
    clock = RealClock()
    assert abs(clock.milliseconds() - clock.tick() * 1000) <= 2_000
    assert clock.jump_ms() == 0
