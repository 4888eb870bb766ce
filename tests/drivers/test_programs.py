"""What goes into a node's program, and what is taken from its answers, whatever a guest writes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shirako.handlers import HandlerFailed, UnitJob, Unsuitable
from shirako.testbed import Node
from shirako_drivers.accounts import AccountOptions, account_of
from shirako_drivers.answers import Answers
from shirako_drivers.program import program
from shirako_drivers.rendering import MAX_CHARACTERS, NodeFiles
from shirako_drivers.ssh import SshDriver

Jobs = Callable[..., UnitJob]
Run = Callable[..., subprocess.CompletedProcess[str]]

# Plain text rarely holds what a shell, or Jinja, would act on.
pieces = ["'", '"', "`", "$(id)", "${x}", "\\", "\n", "\r", ";", "&", "|", ">x", "#", "!", "*", "~"]
pieces += ["END", "\x00", "\ud800", "é", " ", "\t", "{{ 7*7 }}", "{% raw %}", "%s", "\x1b[2J", "-n"]
nasty = st.text() | st.lists(st.sampled_from(pieces)).map("".join)


@given(nasty, nasty)
def test_a_shell_gets_every_text_as_it_was_or_not_at_all(value: str, content: str) -> None:
    try:
        text = program("account", {"value": value}, {"/etc/it's": content})
    except Unsuitable:
        assert any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value + content)
        return
    body, ending, rest = text.partition("main; exit\n")
    assert ending
    assert not rest
    probe = "put_file() { printf '%s\\0' \"$@\"; }\nprintf '%s\\0' \"$value\"\nfiles\n"
    shell = subprocess.run(["sh", "-s"], input=(body + probe).encode(), capture_output=True)
    assert shell.stderr == b""
    assert shell.stdout.decode().split("\0") == [value, "/etc/it's", content, ""]


def job_of(**properties: str) -> UnitJob:
    return UnitJob(
        unit="node-1",
        epoch=1,
        lease="lease-1",
        slice="green",
        type="node",
        end=2_000_000_000,
        node={},
        properties=properties,
        keys=(),
        outputs={},
    )


def rendered(folder: Path, template: str, **properties: str) -> str:
    (folder / "etc").mkdir(exist_ok=True)
    (folder / "etc/file.j2").write_text(template)
    job = job_of(**properties)
    return NodeFiles(folder).render(job, account_of(job, AccountOptions()))["/etc/file"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nasty)
def test_a_template_shows_a_property_and_never_runs_it(tmp_path: Path, text: str) -> None:
    assert rendered(tmp_path, "[{{ properties.x }}]", x=text) == f"[{text}]"


@pytest.mark.parametrize(
    ("template", "value", "message"),
    [
        ("{{ properties.y }}", "", "'dict object' has no attribute 'y'"),
        ("{{ properties.x + 1 }}", "one", "can only concatenate str"),
        ("{{ 1 // (properties.x | int) }}", "none", "by zero"),
        ("{% for i in range(properties.x | int) %}x{% endfor %}", "1000000000000", "Range too big"),
        ("{{ properties.x.format(unit) }}", "{0.__class__}", "is unsafe"),
        ("{{ properties.x.__class__ }}", "", "is unsafe"),
        ("{% for i in range(99999) %}{{ properties.x }}{% endfor %}", "long", str(MAX_CHARACTERS)),
        ("{% include properties.x %}", "/etc/shadow", "no loader"),
    ],
)
def test_a_property_that_a_template_cannot_take_is_refused(
    tmp_path: Path, template: str, value: str, message: str
) -> None:
    """It would be the same on each unit: one after the other would be put out of use."""
    with pytest.raises(Unsuitable, match=message) as caught:
        rendered(tmp_path, template, x=value)
    assert str(caught.value).startswith("the template of /etc/file")


@pytest.mark.real
@pytest.mark.root
@pytest.mark.parametrize("text", ["{{ 7*7 }}'; touch /tmp/owned; '", "$(touch /tmp/owned)\n`id`"])
async def test_a_node_shows_a_property_and_never_runs_it(
    driver: SshDriver, node: Node, make_job: Jobs, inside: Run, text: str
) -> None:
    job = make_job(node, lease=text, slice="green", properties={"host.prefix": text, "x": text})
    await driver.setup(job, print)
    assert f"(lease {text})." in inside(node, "cat /etc/motd").stdout
    assert await driver.survey([job], print) == []
    assert inside(node, "ls /tmp/owned", check=False).returncode != 0


# Answers --------------------------------------------------------------------------------------


TOKEN = "0123456789abcdef01234567"
line = st.builds(
    "{}{} {}".format,
    st.sampled_from([TOKEN, TOKEN, TOKEN[:-1], f" {TOKEN}", "", TOKEN * 2]),
    st.sampled_from(["+", "=", "!", "?", "", "==", "x"]),
    st.sampled_from(["done probe", "done", "ready", "free_mb 12", "free_mb", "stale"]) | st.text(),
)


@given(st.lists(line))
def test_answers_are_taken_or_refused_whatever_comes(lines: list[str]) -> None:
    story: list[str] = []
    answers = Answers(story.append, hidden="BLOB")
    answers.token = TOKEN
    for one in lines:
        assert answers.take(one) in (None, "go\n")
    own = [one.removeprefix(TOKEN) for one in lines if one.startswith(TOKEN)]
    assert story == [one[2:] for one in own if one.startswith("+ ")]
    ended = "= done probe" in own and not any(one.startswith(("! ", "? ")) for one in own)
    free = [one.split(" ", 2)[2:] for one in own if one.split(" ", 2)[:2] == ["=", "free_mb"]]
    with contextlib.nullcontext() if ended else pytest.raises((HandlerFailed, Unsuitable)):
        answers.conclude("probe")
    if len(free) == 1:
        assert answers.one("free_mb") == "".join(free[0])
    else:
        with pytest.raises(HandlerFailed, match="values of free_mb"):
            answers.one("free_mb")


def test_what_a_tool_says_explains_a_failure_and_passes_for_nothing() -> None:
    answers = Answers(print, hidden="AAAABLOB")
    for forged in ("= done set_up", "= user root", "! all is lost", "+ hello"):
        assert answers.take(forged) is None
    answers.take("cannot write ssh-ed25519 AAAABLOB: disk full")
    with pytest.raises(HandlerFailed, match="did not come to its end") as caught:
        answers.conclude("set_up")
    assert "AAAABLOB" not in str(caught.value)
    answers.take(f"{answers.token}! the keys cannot be written")
    with pytest.raises(HandlerFailed, match=r"keys cannot be written: cannot write .*disk full"):
        answers.conclude("set_up")
    with pytest.raises(HandlerFailed, match="0 values of user"):
        answers.one("user")
