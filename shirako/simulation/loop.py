"""Virtual time: an event loop that never waits, and lives that end between any two of its steps.

Theory. A step is one handle of the loop: what a task does between two awaits. Steps run in the
order in which they became ready; timers of the same moment in the order in which they were set.
When nothing is ready, time jumps to the next timer. No thread, socket or real clock takes part, so
the same calls are made in the same order in every run.

A *life* is one incarnation of an actor: all tasks that begin in its context, and all that these
begin. It can be cut off before any step of its own: that is a `kill -9` at any await.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from shirako.ledger import LedgerError

T = TypeVar("T")

STEPS_MAX = 3_000_000
"""Steps of one run: beyond it, the simulated world keeps itself busy for ever."""
TASKS_KEPT = 256
"""Tasks that a life lists before those that are done are taken off its list."""
UNNAMED = "Task-"
"""How the names of tasks begin whose outcome somebody waits for; the others run by themselves."""


class Stuck(Exception):
    """Nothing will ever happen again, or things never cease to happen."""


class Life:
    """One incarnation: what runs in its context ends with it."""

    def __init__(self, loop: VirtualLoop, name: str, cut_off: Callable[[], None]) -> None:
        """`cut_off` is called when the fuse has burned down."""
        self.name = name
        self.dead = False
        self.fuse = 0
        """Steps until `cut_off`; 0: none is burning."""
        self.cut_off = cut_off
        self.disk_delay: Callable[[], float] = lambda: 0.001
        """How long the disk takes for the next thing that it is asked to do."""
        self.broken: list[str] = []
        """Tasks that ended with an exception that nobody caught."""
        self._loop = loop
        self._tasks: list[asyncio.Task[Any]] = []
        self._context = copy_context()
        self._context.run(LIFE.set, self)

    def spawn(self, doing: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something as a part of this life, whoever asks for it."""
        return self._loop.create_task(doing, context=self._context.copy())

    def adopt(self, task: asyncio.Task[Any]) -> None:
        if self.dead:
            task.cancel()
            return
        self._tasks.append(task)
        if len(self._tasks) > TASKS_KEPT:
            self.look_through()

    def look_through(self) -> list[str]:
        """Forget the tasks that are done; what those died of that nobody asked for."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and not task.get_name().startswith(UNNAMED):
                error = task.exception()
                # an actor whose ledger can not be used ends, and says so; that is meant
                if error is not None and not isinstance(error, LedgerError):
                    self.broken.append(f"{task.get_name()}: {type(error).__name__}: {error}")
        self._tasks = [task for task in self._tasks if not task.done()]
        return self.broken

    def end(self) -> None:
        """Cut off. What its tasks still do in their `finally` blocks reaches nobody."""
        if self.dead:
            return
        self.look_through()
        self.dead = True
        self.fuse = 0
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()


LIFE: ContextVar[Life | None] = ContextVar("life", default=None)
"""Whose step this is; None: the simulated world's own."""


class Handle:
    """Something to call, once; as `asyncio.TimerHandle` to those who hold one, but lighter."""

    __slots__ = ("_when", "args", "callback", "context")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        when: float = 0.0,
    ) -> None:
        """Without a `context` it runs in the world's, as a part of no life."""
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self._when = when

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self._when


class VirtualLoop(asyncio.BaseEventLoop):
    """The event loop; `now` is in seconds since the world began."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self._stops = False
        self.set_task_factory(_adopted)
        self._soon: deque[Handle] = deque()
        self._later: list[tuple[float, int, Handle]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def after(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Something that happens in the world, in no life, so many seconds from now."""
        when = self.now + delay
        handle = Handle(callback, args, None, when)
        heapq.heappush(self._later, (when, next(self._numbers), handle))
        return handle

    # What asyncio asks of a loop; it takes our handles for its own -------------------------------

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        if context is None:
            context = copy_context()
        life = context.get(LIFE)
        if life is not None and life.fuse:
            life.fuse -= 1
            if not life.fuse:
                self._soon.append(Handle(life.cut_off, (), None))
        handle = Handle(callback, args, context)
        self._soon.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        handle = Handle(callback, args, copy_context() if context is None else context, when)
        heapq.heappush(self._later, (when, next(self._numbers), handle))
        return handle

    def run_in_executor(  # type: ignore[override] # the base says more than anybody here needs
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run `func` on this loop, when the disk of whoever asks has come to it.

        Its result is known a little later: a life may end in between.
        """
        life = LIFE.get()
        future: asyncio.Future[T] = self.create_future()
        delay = life.disk_delay() if life is not None else 0.0
        self.after(delay * 0.9, self._execute, future, life, delay * 0.1, func, args)
        return future

    def _execute(
        self,
        future: asyncio.Future[T],
        life: Life | None,
        rest: float,
        func: Callable[..., T],
        args: tuple[Any, ...],
    ) -> None:
        if life is not None and life.dead:
            return
        try:
            result = func(*args)
        except Exception as error:
            self.after(rest, _tell, future, life, None, error)
        else:
            self.after(rest, _tell, future, life, result, None)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What tasks died of is found when their lives are looked through."""

    def stop(self) -> None:
        self._stops = True
        super().stop()

    def _run_once(self) -> None:
        """All steps of this moment: what `run_forever` of the base class repeats."""
        soon = self._soon
        if not soon:
            self._advance()
        self._stops = False
        while soon:
            handle = soon.popleft()
            self.steps += 1
            callback, context = handle.callback, handle.context
            if callback is None:
                continue
            if context is None:
                callback(*handle.args)
            else:
                context.run(callback, *handle.args)
            if self._stops:
                return
            if self.steps > STEPS_MAX:
                raise Stuck(f"more than {STEPS_MAX} steps")

    def _advance(self) -> None:
        """Let time jump to the next timer, and make ready all that are due then."""
        later = self._later
        while later and later[0][2].callback is None:
            heapq.heappop(later)
        if not later:
            raise Stuck("nothing is left to happen")
        self.now = max(self.now, later[0][0])
        while later and later[0][0] <= self.now:
            self._soon.append(heapq.heappop(later)[2])


def _adopted(loop: asyncio.AbstractEventLoop, doing: Any, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(doing, loop=loop, **options)
    context: Context | None = options.get("context")
    life = LIFE.get() if context is None else context.get(LIFE)
    if life is not None:
        life.adopt(task)
    return task


def _tell(
    future: asyncio.Future[Any], life: Life | None, result: Any, error: Exception | None
) -> None:
    if future.done() or (life is not None and life.dead):
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
