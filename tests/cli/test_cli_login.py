"""`shirako lease ssh`: a real sshd, its pinned host key, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from shirako.api.models import Asked, Lease, Unit
from shirako.cli.login import log_in, ssh_arguments
from shirako.testbed import Node, Site, Testbed

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GOOD = {
    "name": "n1",
    "host": "node.example.org",
    "port": 2222,
    "user": "s-blue",
    "host_key": "ssh-ed25519 AAAA",
}


def lease_of(*units: Unit) -> Lease:
    return Lease(
        id="L1",
        slice="blue",
        type="node",
        state="Active",
        final=False,
        units=len(units),
        start=NOW,
        end=NOW,
        asked=Asked(units=1, least_units=1, start=NOW, end=NOW),
        held=units,
        broker="broker",
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Testbed(tmp_path_factory.mktemp("site"), nodes=2, mode="processes") as testbed:
        yield testbed.start(print)


def unit_of(node: Node, host_key: str) -> Unit:
    return Unit(
        name=node.name, host=node.host, port=node.port, user=node.admin_user, host_key=host_key
    )


@pytest.mark.real
def test_logging_in_works_with_the_pinned_host_key_alone(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = site.nodes
    good = lease_of(unit_of(first, first.host_key))
    key = str(site.admin_key)
    assert log_in(good, None, key, ("echo", "hello from", '"$SSH_CONNECTION"')) == 0
    assert "hello from 127" in capfd.readouterr().out
    assert log_in(good, None, key, ("exit 7",)) == 7
    posing = lease_of(unit_of(first, second.host_key))
    assert log_in(posing, None, key, ("echo hello",)) == 255
    told = capfd.readouterr()
    assert "hello" not in told.out
    assert "Host key verification failed" in told.err


def test_the_command_line_names_what_was_pinned(tmp_path: Path) -> None:
    words = ssh_arguments(Unit.model_validate(GOOD), tmp_path / "known", "/id", ("uname", "-a"))
    assert words[-8:] == ["-p", "2222", "-l", "s-blue", "--", "node.example.org", "uname", "-a"]
    assert "-oStrictHostKeyChecking=yes" in words
    assert "-oGlobalKnownHostsFile=/dev/null" in words
    assert f"-oUserKnownHostsFile={tmp_path}/known" in words
    printed = subprocess.run(  # what ssh itself makes of it
        [words[0], "-G", *words[1 : words.index("--")], "--", "node.example.org"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "user s-blue" in printed
    assert "port 2222" in printed
    assert "stricthostkeychecking true" in printed


@pytest.mark.parametrize(
    "change",
    [
        {"host": "-oProxyCommand=touch /tmp/x"},
        {"host": "a b"},
        {"host": None},
        {"user": "-x"},
        {"user": "a;id"},
        {"user": "x\n"},
        {"host_key": "ssh-ed25519"},
        {"host_key": "ssh-ed25519 AAAA\n* ssh-ed25519 BBBB"},
        {"host_key": None},
    ],
)
def test_a_site_can_not_put_options_on_the_command_line(
    tmp_path: Path, change: dict[str, str | None]
) -> None:
    unit = Unit.model_validate({**GOOD, **change})
    with pytest.raises(click.ClickException, match="can not be logged in to"):
        ssh_arguments(unit, tmp_path, None, ())


def test_one_of_several_units_has_to_be_named() -> None:
    two = lease_of(Unit(name="n1"), Unit(name="n2"))
    with pytest.raises(click.UsageError, match="n1, n2"):
        log_in(two, None, None, ())
    with pytest.raises(click.UsageError, match="no unit 'n3'"):
        log_in(two, "n3", None, ())
    with pytest.raises(click.ClickException, match="holds no units"):
        log_in(lease_of(), None, None, ())
