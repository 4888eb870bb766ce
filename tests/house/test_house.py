"""The house rules over the whole tree: what a reviewer should not have to look for."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
LINES_MAX = 1000
OURS = ("shirako/", "drivers/", "policies/", "web/")

# Written so that this file does not contain what it looks for.
UNDONE = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X]|HAC[K])\b")
PLACES = re.compile(r"(?<![\w.])/(wor[k]|User[s]|hom[e])/[\w.-]+")
# Homes on nodes are made of an account's name, and examples have theirs.
HOMES_MEANT = re.compile(r"/home/(s-|\{|\$|ada\b|visitor\b|full\b)")
UNDONE_METHOD = re.compile(r"raise NotImplementedErro[r]")


def tracked(*suffixes: str) -> Iterator[tuple[str, str]]:
    """Name and text of every file that belongs to the project and ends in one of `suffixes`."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert len(names) > 100, "git lists hardly any file: nothing would be checked"
    for name in names:
        if not suffixes or name.endswith(suffixes):
            yield name, (ROOT / name).read_text(errors="replace")


def found(pattern: re.Pattern[str], *suffixes: str) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked(*suffixes)
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, object] = tomllib.load(file)["project"]
    return table


def dependencies() -> list[str]:
    """Names of the packages that `pyproject.toml` asks for."""
    required = project()["dependencies"]
    assert isinstance(required, list)
    return [re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower() for requirement in required]


def test_nothing_is_left_to_do() -> None:
    assert found(UNDONE, ".py", ".sh", ".xml", ".xsd", ".toml", ".j2", ".yaml", ".md") == []


def test_what_subclasses_have_to_write_says_so() -> None:
    """An abstract method is marked as never reached; anything else that is not there is undone."""
    bare = [line for line in found(UNDONE_METHOD, ".py") if "pragma: no cover" not in line]
    assert bare == []


def test_no_file_is_too_long() -> None:
    long = {
        name: lines
        for name, text in tracked(".py", ".sh", ".xsd", ".html", ".js", ".css")
        if (lines := len(text.splitlines())) > LINES_MAX
    }
    assert long == {}


def test_nothing_names_the_machine_that_it_was_written_on() -> None:
    named = [line for line in found(PLACES) if not HOMES_MEANT.search(line)]
    assert named == []
    assert found(re.compile(re.escape(str(ROOT)) + r"\b")) == []


def test_each_dependency_has_its_reason_and_each_reason_its_dependency() -> None:
    blocks = (ROOT / "docs" / "DEPENDENCIES.md").read_text().split("\n\n")
    (table,) = [block for block in blocks if block.startswith("| package |")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert sorted(row[0] for row in cells) == sorted(dependencies())
    assert all(len(row) == 3 and all(row) for row in cells), cells


def test_each_dependency_is_imported() -> None:
    """One that nothing imports any more is one to drop."""
    source = "\n".join(text for name, text in tracked(".py") if name.startswith(OURS))
    unused = [
        package
        for package in dependencies()
        if not re.search(rf"^\s*(import|from) {package}\b", source, re.M)
    ]
    assert unused == []


def own_entry_points() -> list[EntryPoint]:
    declared = project()["entry-points"]
    assert isinstance(declared, dict)
    return [
        EntryPoint(name=name, group=group, value=value)
        for group, points in declared.items()
        for name, value in points.items()
    ]


@pytest.mark.parametrize("point", own_entry_points(), ids=lambda p: f"{p.group}:{p.name}")
def test_entry_point_is_installed_and_loads(point: EntryPoint) -> None:
    assert point in entry_points(group=point.group), "not installed: make setup"
    loaded = point.load()
    assert loaded.__doc__, f"{point.value} does not say what it is"


def test_layers_import_downward_only() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_state_diagrams_are_those_of_the_tables() -> None:
    tool = ModuleType("docs_tool")
    source = ROOT / "tools" / "docs.py"
    tool.__file__ = str(source)
    exec(compile(source.read_text(), source, "exec"), tool.__dict__)
    written = (ROOT / "docs" / "STATES.md").read_text()
    assert tool.states() == written, "out of date: make docs"
