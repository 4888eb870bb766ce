"""`shirako check`, `keys`, `token`, `states`, `completion`, and what all commands share."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner

from shirako.cli import main
from shirako.core import authority, broker, guest


def walk(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command there is, as the words that call it."""
    found = [path]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found += walk(inner, (*path, name))
    return found


@pytest.mark.parametrize("words", walk(main), ids=" ".join)
def test_every_command_has_help_with_examples(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    inner: Any = main
    for word in words:
        inner = inner.get_command(click.Context(inner), word)
    assert inner.help
    if not isinstance(inner, click.Group) and words[0] not in ("testbed", "demo"):
        assert "Example" in result.output


def test_the_first_word_loads_nothing_that_is_slow() -> None:
    heavy = (
        "import sys; from shirako.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    )
    ask = "\nprint([m for m in ('aiohttp', 'lxml', 'pydantic', 'joserfc') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", heavy + ask], capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines()[-1] == "[]"


def test_a_missing_module_takes_its_own_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from shirako.cli import commands

    monkeypatch.setitem(commands.COMMANDS, "demo", ("not_there", "Nothing."))
    assert "Nothing." not in CliRunner().invoke(main, ["--help"]).output
    assert CliRunner().invoke(main, ["demo"]).exit_code == 2
    assert CliRunner().invoke(main, ["states"]).exit_code == 0


def test_what_nobody_expected_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from shirako.core import diagram

    def broken() -> str:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(diagram, "text", broken)
    monkeypatch.delenv("SHIRAKO_DEBUG", raising=False)
    result = CliRunner().invoke(main, ["states"])
    assert result.exit_code == 1
    assert "ZeroDivisionError: by zero" in result.output
    assert "Traceback" not in result.output


# check and keys ------------------------------------------------------------------------------


def test_keys_are_made_once_and_check_is_content(still: Any) -> None:
    missing = still.json("check", status=2)
    assert {fault["line"] for fault in missing["faults"]} == {2, 14, 16}
    assert all("shirako keys" in fault["mend"] for fault in missing["faults"])
    made = still.json("keys")
    assert [one["made"] for one in made] == [True, True, True]
    key = still.folder / "keys" / "site.jwk"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    again = still.json("keys")
    assert [one["made"] for one in again] == [False, False, False]
    assert [one["kid"] for one in again] == [one["kid"] for one in made]
    assert key.read_bytes() == before
    told = still.json("check")
    assert told["ok"]
    assert [actor["name"] for actor in told["actors"]] == ["site", "broker", "guest"]
    assert "good: authority site, broker broker" in still("check", "actors.xml")
    key.unlink()
    assert "peers may have pinned" in still("keys", status=1)


def test_check_prints_every_fault_with_its_line_and_mend(still: Any) -> None:
    path = still.folder / "actors.xml"
    path.write_text(
        path.read_text().replace('units="3"', 'units="x"').replace('"first-fit"', '"f"')
    )
    told = still("check", status=2).splitlines()
    assert len(told) >= 3
    for line in told:
        assert line.startswith("actors.xml:")
        assert " Mend: " in line
    assert "there is no such file" in still("check", "none.xml", status=2)
    path.write_text("<")
    still("check", status=2)
    still("run", status=2)


# Tokens --------------------------------------------------------------------------------------


def test_tokens_are_shown_once_listed_and_revoked(still: Any) -> None:
    secret = still("token", "create", "ann", "--role", "guest").strip()
    assert secret.startswith("shk_")
    assert len(secret) > 40
    file = still.folder / "state" / "tokens.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in file.read_text()
    still("token", "create", "ops", "--role", "site-admin", "--actor", "site")
    listed = still.json("token", "list")
    assert [(t["name"], t["role"], t["actor"]) for t in listed] == [
        ("ann", "guest", None),
        ("ops", "site-admin", "site"),
    ]
    assert "ann" in still("token", "list")
    assert "already" in still("token", "create", "ann", "--role", "viewer", status=1)
    assert "lower-case" in still("token", "create", "A b", "--role", "viewer", status=1)
    assert "no such actor" in still(
        "token", "create", "x", "--role", "guest", "--actor", "y", status=2
    )
    still("token", "create", "x", "--role", "king", status=2)
    still("token", "revoke", "ann")
    assert [t["name"] for t in still.json("token", "list")] == ["ops"]
    still("token", "revoke", "ann", status=1)
    file.write_text("{")
    assert "damaged" in still("token", "list", status=1)


def test_tokens_made_at_once_are_all_kept(still: Any) -> None:
    made = [still.start("token", "create", f"t{n}", "--role", "guest") for n in range(6)]
    secrets = {process.communicate(timeout=60)[0].strip() for process in made}
    assert len(secrets) == 6
    assert len(still.json("token", "list")) == 6


# States and completion -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "mermaid"])
def test_states_lists_every_arrow(form: str) -> None:
    told = CliRunner().invoke(main, ["states", "--format", form]).output
    sections = told.split("```mermaid")[1:] if form == "mermaid" else []
    tables: tuple[Any, ...] = (guest.TABLE, broker.TABLE, authority.TABLE)
    assert form == "text" or len(sections) == len(tables)
    for number, table in enumerate(tables):
        for (source, event), arrow in table.items():
            for target in arrow.targets:
                if form == "text":
                    assert f"  {source.value} --{event.__name__}--> {target.value}\n" in told
                    continue
                start = f"    {source.value} --> {target.value}: "
                (line,) = [li for li in sections[number].splitlines() if li.startswith(start)]
                assert event.__name__ in line.removeprefix(start).split(", ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell: str) -> None:
    told = CliRunner().invoke(main, ["completion", shell])
    assert told.exit_code == 0
    assert "_SHIRAKO_COMPLETE" in told.output


def test_a_shell_completes_commands(still: Any) -> None:
    process = still.start(
        _SHIRAKO_COMPLETE="bash_complete", COMP_WORDS="shirako lease ex", COMP_CWORD="2"
    )
    assert "extend" in json.dumps(process.communicate(timeout=60)[0])
