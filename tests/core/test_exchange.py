"""Rules 7 and 8: whatever the network does, each number is taken at most once and in order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shirako.core.exchange import REFUSALS_MAX, Arrival, Line
from shirako.core.messages import (
    Close,
    ExtendTicket,
    Failed,
    Message,
    Redeem,
    UpdateLease,
    UpdateTicket,
)


def close() -> Message:
    return Close(rid="L1", holder="g", ticket=())


def update(answers: int = 0) -> Message:
    return UpdateLease(rid="L1", holder="g", answers=answers)


def failed(answers: int = 0) -> Message:
    return Failed(rid="L1", holder="g", answers=answers, code="no", reason="no")


class ExchangeMachine(RuleBasedStateMachine):
    """One direction of an exchange over a network that loses, repeats and reorders envelopes.

    The sender's outbox is read at any time into an envelope; envelopes arrive at any time, any
    number of times, or never; acknowledgements are lost at will.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sender = Line()
        self.receiver = Line()
        self.said: list[Message] = []
        self.taken: list[Message] = []
        self.envelopes: list[tuple[Message, ...]] = []

    @rule(what=st.sampled_from([close, update, failed]))
    def say(self, what: object) -> None:
        self.sender = self.sender.say(what())  # type: ignore[operator] # one of three functions
        assert self.sender.last is not None
        self.said.append(self.sender.last)

    @precondition(lambda self: self.sender.unacked)
    @rule()
    def send(self) -> None:
        self.envelopes.append(self.sender.unacked)

    @precondition(lambda self: self.envelopes)
    @rule(data=st.data(), again=st.booleans(), acknowledged=st.booleans())
    def arrive(self, data: st.DataObject, again: bool, acknowledged: bool) -> None:
        at = data.draw(st.integers(0, len(self.envelopes) - 1))
        envelope = self.envelopes[at] if again else self.envelopes.pop(at)
        self.take(envelope)
        if acknowledged:
            self.sender = self.sender.delivered(envelope[-1].n)

    @precondition(lambda self: self.envelopes)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.envelopes.pop(data.draw(st.integers(0, len(self.envelopes) - 1)))

    def take(self, envelope: tuple[Message, ...]) -> None:
        for message in envelope:
            if self.receiver.arrival(message.n) is Arrival.NEW:
                self.receiver = self.receiver.took(message.n)
                self.taken.append(message)

    @invariant()
    def taken_at_most_once_and_in_order(self) -> None:
        numbers = [message.n for message in self.taken]
        assert numbers == sorted(set(numbers))
        assert set(numbers) <= {message.n for message in self.said}

    @invariant()
    def the_outbox_is_in_order_and_bounded(self) -> None:
        numbers = [message.n for message in self.sender.unacked]
        assert numbers == sorted(set(numbers))
        others = [m for m in self.sender.unacked if not isinstance(m, Failed)]
        assert len(others) <= 1
        assert len(self.sender.unacked) <= REFUSALS_MAX + 1

    def teardown(self) -> None:
        """Once the network works, all that still matters has arrived: the newest snapshot or
        request, and the newest refusals, whichever of the two was said last."""
        if self.sender.unacked:
            self.take(self.sender.unacked)
        taken = {message.n for message in self.taken}
        refusals = [m.n for m in self.said if isinstance(m, Failed)]
        others = [m.n for m in self.said if not isinstance(m, Failed)]
        assert {*refusals[-REFUSALS_MAX:], *others[-1:]} <= taken


ExchangeMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestExchange = ExchangeMachine.TestCase


def test_numbers_grow_by_one() -> None:
    line = Line()
    for number in range(1, 5):
        line = line.say(close())
        assert (line.sent, line.unacked[-1].n) == (number, number)


def test_arrivals() -> None:
    line = Line().took(3)
    assert [line.arrival(n) for n in (1, 2, 3, 4, 9)] == [
        Arrival.OLD,
        Arrival.OLD,
        Arrival.DUPLICATE,
        Arrival.NEW,
        Arrival.NEW,
    ]


@pytest.mark.parametrize(
    "answer",
    [
        UpdateTicket(rid="L1", holder="g", answers=4),
        UpdateLease(rid="L1", holder="g", answers=4),
        failed(4),
    ],
)
def test_a_duplicate_gets_the_answer_again_with_the_same_number(answer: Message) -> None:
    line = Line().say(answer)
    told = line.delivered(1)
    assert told.unacked == ()
    assert told.say_again(4).unacked == line.unacked
    assert told.say_again(4).sent == 1


def test_a_duplicate_of_what_is_not_answered_yet_gets_nothing() -> None:
    line = Line().say(update(3)).delivered(1)
    assert line.say_again(4) == line
    assert Line().say_again(1) == Line()
    for request in (close(), Redeem(rid="L1", holder="g", ticket=(), slice="s", least_units=1)):
        asked = Line().say(request).delivered(1)
        assert asked.say_again(1) == asked


def test_an_answer_on_its_way_is_not_put_out_twice() -> None:
    line = Line().say(update(3))
    assert line.say_again(3) == line


def test_a_newer_request_replaces_an_older_one_but_not_a_refusal() -> None:
    line = Line().say(failed(1)).say(ExtendTicket(rid="L1", holder="g", end=2, least_end=2))
    line = line.say(close())
    assert [type(m) for m in line.unacked] == [Failed, Close]
    assert [m.n for m in line.unacked] == [1, 3]


@given(st.lists(st.sampled_from(["f", "u"]), max_size=8), st.integers(0, 9))
def test_delivered_drops_what_came_before_it_and_nothing_after(kinds: list[str], n: int) -> None:
    line = Line()
    for kind in kinds:
        line = line.say(failed() if kind == "f" else update())
    assert [m.n for m in line.delivered(n).unacked] == [m.n for m in line.unacked if m.n > n]
