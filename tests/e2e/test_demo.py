"""`shirako demo`: what a newcomer runs first."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = [pytest.mark.real, pytest.mark.root]


def command(folder: Path, *options: str) -> list[str]:
    descriptor = str(ROOT / "actors.xml")
    where = ["--folder", str(folder), "--descriptor", descriptor]
    return [sys.executable, "-m", "shirako", "demo", *where, *options]


def test_one_whole_lease(tmp_path: Path) -> None:
    ran = subprocess.run(
        command(tmp_path, "--once", "--json"), capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    passed = told["states"]
    assert passed["service-manager"][0] == "Nascent"
    assert {"Ticketed", "Redeeming", "Joining", "Active", "ExtendingLease", "CloseWait"} <= set(
        passed["service-manager"]
    )
    assert [role[-1] for role in passed.values()] == ["Closed"] * 3
    assert len(told["units"]) == len(told["login"]) == 2
    for unit, login in zip(told["units"], told["login"], strict=True):
        assert unit["host_key"].startswith("ssh-ed25519 ")
        assert login.startswith(f"{unit['user']}@")
    assert told["extended"]["new_end"] > told["extended"]["old_end"]
    assert told["extended"]["latest_end"] >= told["extended"]["new_end"]
    assert told["extended"]["cap"] == "delegation"
    assert set(told["after_close"]) == {
        "login_refused",
        "account_gone",
        "processes_gone",
        "directory_gone",
    }
    assert all(told["after_close"].values())
    assert 0 < told["seconds"] < 120


def test_it_stays_up_until_interrupted_and_clears_up(tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    with (
        progress.open("w") as told,
        subprocess.Popen(
            command(tmp_path, "--nodes", "1", "--units", "1"),
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
        ) as demo,
    ):
        assert demo.stdout is not None
        lines = []
        for line in demo.stdout:
            lines.append(line.strip())
            if "Ctrl-C" in line:
                break
        assert any("lease ssh" in line and "--unit node-1" in line for line in lines), (
            progress.read_text()
        )
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert left.stdout == "", "processes of the demo are left"


def test_more_units_than_nodes_is_wrong_usage(tmp_path: Path) -> None:
    ran = subprocess.run(
        command(tmp_path, "--nodes", "1", "--units", "2"), capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert "--units 2" in ran.stderr
