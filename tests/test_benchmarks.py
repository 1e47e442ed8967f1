"""The benchmark runs; what it measures is no test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_workload_runs_at_a_tiny_size(tmp_path):
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--cores", "0"]
    command += ["--contenders", "ours", "--output", str(tmp_path)]
    root = Path(__file__).parents[1]
    subprocess.run(command, check=True, cwd=root, capture_output=True)
    groups = json.loads((tmp_path / "results.json").read_text())["groups"]
    assert {g["workload"] for g in groups} == {"W1", "W2", "W3"}
    for group in groups:
        for name, result in group["contenders"].items():
            assert "error" not in result, (name, result)
            assert all(f["wall_ms"] for f in result["operations"].values()), (name, result)
    assert (tmp_path / "benchmarks.png").stat().st_size > 10_000
    assert "ours" in (tmp_path / "report.md").read_text()
