"""`shirako simulate`: what it prints, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shirako.actors.broker import Broker
from shirako.cli.simulate import simulate

SHIRAKO = str(Path(sys.executable).with_name("shirako"))


def called(*args: str) -> Result:
    return CliRunner().invoke(simulate, args)


def told(*args: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(called(*args, "--json").stdout)
    return summary


def test_json_has_what_programs_rely_on() -> None:
    summary = told("--faults", "--seeds", "4", "--jobs", "1")
    assert set(summary) == {
        "seeds", "events", "lives", "faults", "seen", "violations", "digest", "seconds",
    }  # fmt: skip
    assert summary["seeds"] == 4
    assert summary["violations"] == []
    assert summary["events"] > summary["lives"] > 0
    for counts in (summary["faults"], summary["seen"]):
        assert counts
        assert list(counts) == sorted(counts)
        assert all(isinstance(count, int) and count > 0 for count in counts.values())
    assert len(summary["digest"]) == 64


def test_the_seeds_count_from_the_first() -> None:
    both = told("--faults", "--seeds", "2", "--seed", "5", "--jobs", "1")
    one = told("--faults", "--seeds", "1", "--seed", "6", "--jobs", "1")
    assert both["events"] > one["events"]
    assert both["digest"] != one["digest"]


def test_people_get_a_table_of_what_went_wrong() -> None:
    result = called("--faults", "--seeds", "3", "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert "INJECTED" in result.stdout
    assert "SEEN" in result.stdout
    assert "receipt said again" in result.stdout
    assert "violations  none" in result.stdout
    assert "events" in result.stdout


def test_without_faults_there_is_no_table() -> None:
    result = called("--seeds", "2", "--jobs", "1")
    assert result.exit_code == 0
    assert "INJECTED" not in result.stdout


def test_a_violation_is_told_with_all_that_it_takes_to_see_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Broker, "_book", lambda self, grant: None)
    result = called("--faults", "--seeds", "6", "--jobs", "1", "--json")
    assert result.exit_code == 1
    first = json.loads(result.stdout)["violations"][0]
    assert first["invariant"] in ("CONSERVE", "SOUND")
    assert first["seed"] >= 1
    assert any("CHECK" in line and "violated" in line for line in first["trace"])
    if first["lease"]:
        assert first["story"]
        assert all(first["lease"] in line for line in first["story"] if " CHECK " not in line)
    shown = called("--faults", "--seeds", "1", "--seed", str(first["seed"]), "--jobs", "1")
    assert shown.exit_code == 1
    assert f"seed {first['seed']}: {first['invariant']}" in shown.stdout


@pytest.mark.parametrize(
    "wrong", [("--seeds", "0"), ("--seeds", "many"), ("--minutes", "0"), ("--jobs", "0"), ("now",)]
)
def test_wrong_usage_is_told_and_ends_with_2(wrong: tuple[str, ...]) -> None:
    result = called(*wrong)
    assert result.exit_code == 2
    assert "Usage" in result.output


def test_help_has_examples() -> None:
    result = called("--help")
    assert "shirako simulate --faults --seeds 1000" in result.output


def test_minutes_stop_it_in_time() -> None:
    summary = told("--faults", "--seeds", "1000000", "--minutes", "0.01", "--jobs", "2")
    assert 0 < summary["seeds"] < 1000000


def test_an_interrupt_ends_with_what_was_done_so_far() -> None:
    command = [SHIRAKO, "simulate", "--faults", "--seeds", "1000000", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "seeds" in process.stderr.readline()  # it is under way
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    summary = json.loads(output)
    assert 0 < summary["seeds"] < 1000000
    again = told("--faults", "--seeds", str(summary["seeds"]), "--jobs", "2")
    assert again["digest"] == summary["digest"]
