"""Operators that make mutants: of a table's arrows, and of a function's source.

An operator of arrows gets what an arrow was given and what it gave, and gives something else; one
that changes nothing for any sample makes no mutant of that arrow.
"""

from __future__ import annotations

import ast
import copy
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from shirako.core.machine import Arrow, Me, State, Step

Change = Callable[[Any, Step[Any]], Step[Any]]
"""(record, what its arrow gave) -> what the mutant gives."""

# Arrows ---------------------------------------------------------------------------------------


def stays(r: Any, step: Step[Any]) -> Step[Any]:
    """All is done, and the state does not change."""
    return step._replace(record=replace(step.record, state=r.state))


def closes(_r: Any, step: Step[Any]) -> Step[Any]:
    """All is done, and the lease is over at once."""
    return step._replace(record=replace(step.record, state=type(step.record.state).CLOSED))


def sleeps(_r: Any, step: Step[Any]) -> Step[Any]:
    """The deadline is not set; what is over gets its own from the role, whatever the table says."""
    if step.record.state.final:
        return step
    return step._replace(record=replace(step.record, wake=None))


def is_mute(r: Any, step: Step[Any]) -> Step[Any]:
    """What should be said is not."""
    return step._replace(record=replace(step.record, lines=r.lines))


def is_idle(r: Any, step: Step[Any]) -> Step[Any]:
    """No handler is started."""
    work = tuple(w for w in step.record.work if w in r.work)
    return step._replace(record=replace(step.record, work=work))


def keeps_no_effect(_r: Any, step: Step[Any]) -> Step[Any]:
    """The other books do not hear of it."""
    return step._replace(effects=())


def doubles_effects(_r: Any, step: Step[Any]) -> Step[Any]:
    """The other books hear of it twice."""
    return step._replace(effects=(*step.effects, *step.effects))


def keeps_no_data(r: Any, step: Step[Any]) -> Step[Any]:
    """It goes where it should, says and starts what it should, and remembers nothing else."""
    after = step.record
    names = {"state", "lines", "work", "wake", *WORDS} & set(after.__struct_fields__)
    return step._replace(record=replace(r, **{name: getattr(after, name) for name in names}))


WORDS = ("reason", "closing", "refusal", "offer", "degraded")
"""Fields that tell people why: no promise rests on them."""

CHANGES: dict[str, Change] = {
    "stays where it was": stays,
    "closes": closes,
    "sets no deadline": sleeps,
    "says nothing": is_mute,
    "starts no handler": is_idle,
    "has no effects": keeps_no_effect,
    "has its effects twice": doubles_effects,
    "keeps no data": keeps_no_data,
}


def changed(arrow: Arrow[Any], change: Change, states: tuple[State, ...]) -> Arrow[Any]:
    """The arrow with another outcome; it may lead anywhere."""

    def action(r: Any, e: Any, me: Me) -> Step[Any]:
        return change(r, arrow.action(r, e, me))

    return Arrow(action, states)


# Sources --------------------------------------------------------------------------------------


IMPORTERS = ("shirako.", "tests.core.", "tests.model.")
"""Where a function may have been imported to."""


@dataclass(frozen=True)
class Function:
    """A function by where it is defined: a class or module, and the name in it."""

    owner: Any
    name: str
    amounts: bool = False
    """Whether its comparisons and its largest and smallest ones are changed, too."""

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.owner.__name__.rpartition('.')[2]}.{self.name}"

    def original(self) -> Any:
        """The function itself."""
        return getattr(self.owner, self.name)


@dataclass(frozen=True)
class Cut:
    """A function's source with one thing taken out."""

    function: Function
    what: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Where, and what is taken out."""
        return f"{self.function.title}: {self.what}"

    @contextmanager
    def made(self) -> Iterator[None]:
        """The mutant takes the function's place, wherever that was imported to."""
        original = self.function.original()
        names: dict[str, Any] = {}
        code = compile(self.tree, f"<{self.name}>", "exec")
        exec(code, original.__globals__, names)
        mutant = names[self.function.name]
        places = [self.function.owner]
        places += [m for name, m in sys.modules.items() if name.startswith(IMPORTERS)]
        places = [p for p in places if p.__dict__.get(self.function.name) is original]
        try:
            for place in places:
                setattr(place, self.function.name, mutant)
            yield
        finally:
            for place in places:
                setattr(place, self.function.name, original)


def cuts(function: Function) -> Iterator[Cut]:
    """Every check of a function left out, one at a time, and every call that is a statement.

    A check is an `if` whose body only raises or returns; of one that asks several things, each is
    left out by itself. Where amounts matter, each comparison is made a little laxer or stricter,
    and of the largest or smallest of several things each is left out.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function.original())))
    body = tree.body[0]
    assert isinstance(body, ast.FunctionDef)
    body.decorator_list = []
    _name_super(function, body)
    yield from _cuts_of(function, "", tree)


def cut_again(cut: Cut) -> Iterator[Cut]:
    """The same with one more thing taken out of what is left."""
    yield from _cuts_of(cut.function, f"{cut.what} and ", cut.tree)


def _cuts_of(function: Function, before: str, tree: ast.Module) -> Iterator[Cut]:
    for number, node in enumerate(ast.walk(tree)):
        changes = [*_changes(node), *(_changes_of_amounts(node) if function.amounts else ())]
        for what, change in changes:
            copied = copy.deepcopy(tree)
            change(list(ast.walk(copied))[number])
            ast.fix_missing_locations(copied)
            yield Cut(function, before + what, copied)


def _name_super(function: Function, body: ast.FunctionDef) -> None:
    """`super()` works only in the class body; a mutant is made outside of it."""
    for node in ast.walk(body):
        if isinstance(node, ast.Call) and ast.unparse(node) == "super()":
            node.args = [ast.Name(function.owner.__name__), ast.Name("self")]
            for name in node.args:
                name.ctx = ast.Load()  # type: ignore[attr-defined] # both are names


Taking = Callable[[Any], None]


def _changes(node: ast.AST) -> Iterator[tuple[str, Taking]]:
    if isinstance(node, ast.If) and not node.orelse and _only_leaves(node.body):
        yield f"without `if {ast.unparse(node.test)}`", _set_test(ast.Constant(False))
        parts = list(_weaker(node.test))
        if len(parts) > 1:
            for left_out, test in parts:
                yield f"without `{left_out}`", _set_test(test)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"without `{ast.unparse(node)}`", _to_nothing
    match node:
        case ast.BinOp(_, ast.Add(), ast.Constant(1)):
            yield f"without `+ 1` in `{ast.unparse(node)}`", _to_no_addition
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        yield f"without `{ast.unparse(node)}`", _to_nothing_assigned


_NEARLY: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


def _changes_of_amounts(node: ast.AST) -> Iterator[tuple[str, Taking]]:
    match node:
        case ast.Compare(left, ops, comparators):
            for number, op in enumerate(ops):
                if type(op) in _NEARLY:
                    nearly = [*ops[:number], _NEARLY[type(op)](), *ops[number + 1 :]]
                    other = ast.unparse(ast.Compare(left, nearly, comparators))
                    yield f"`{other}` for `{ast.unparse(node)}`", _set_operator(number)
        case ast.Call(ast.Name("min" | "max"), args) if len(args) > 1:
            for number, argument in enumerate(args):
                what = f"without `{ast.unparse(argument)}` in `{ast.unparse(node)}`"
                yield what, _without_argument(number)


def _set_operator(number: int) -> Taking:
    def change(node: ast.Compare) -> None:
        node.ops[number] = _NEARLY[type(node.ops[number])]()

    return change


def _without_argument(number: int) -> Taking:
    def change(node: ast.Call) -> None:
        rest = [*node.args[:number], *node.args[number + 1 :]]
        node.args = [ast.Tuple(rest, ast.Load())]

    return change


def _only_leaves(body: list[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Raise | ast.Return | ast.Continue)


def _set_test(test: ast.expr) -> Taking:
    def change(node: ast.If) -> None:
        node.test = test

    return change


def _to_nothing(node: ast.Expr) -> None:
    node.value = ast.Constant(None)


def _to_no_addition(node: ast.BinOp) -> None:
    node.right = ast.Constant(0)


def _to_nothing_assigned(node: ast.Assign) -> None:
    node.targets = [ast.Name("_", ast.Store())]
    node.value = ast.Constant(None)


def _weaker(test: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """A test that asks several things, without each of them: it holds less often."""
    match test:
        case ast.BoolOp(ast.Or(), values):
            for left_out in values:
                rest = [value for value in values if value is not left_out]
                yield ast.unparse(left_out), _any_of(rest)
        case ast.UnaryOp(ast.Not(), ast.Compare(left, ops, comparators)) if len(ops) > 1:
            sides = [left, *comparators]
            links: list[ast.expr] = [
                ast.Compare(sides[n], [op], [sides[n + 1]]) for n, op in enumerate(ops)
            ]
            for link in links:
                others = [other for other in links if other is not link]
                yield ast.unparse(link), ast.UnaryOp(ast.Not(), _all_of(others))
        case ast.Compare(ast.Tuple(left_side), [ast.NotEq()], [ast.Tuple(right_side)]):
            pairs: list[ast.expr] = [
                ast.Compare(a, [ast.NotEq()], [b])
                for a, b in zip(left_side, right_side, strict=True)
            ]
            for pair in pairs:
                rest = [other for other in pairs if other is not pair]
                yield ast.unparse(pair), _any_of(rest)


def _any_of(tests: list[ast.expr]) -> ast.expr:
    return tests[0] if len(tests) == 1 else ast.BoolOp(ast.Or(), tests)


def _all_of(tests: list[ast.expr]) -> ast.expr:
    return tests[0] if len(tests) == 1 else ast.BoolOp(ast.And(), tests)
