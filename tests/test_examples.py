"""The example of the main job runs from end to end, in fewer epochs."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
def test_glow_on_digits(tmp_path):
    command = [sys.executable, str(EXAMPLES / "glow_digits.py"), "--epochs", "40"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], check=True, capture_output=True, text=True
    )
    bits = float(done.stdout.split("Test images: ")[1].split(" bits/dim")[0])
    baseline = float(done.stdout.split("A histogram of each pixel gets ")[1].split(",")[0])
    assert bits < baseline  # a flow that does not beat it has learnt nothing spatial
    assert "both give the same samples for one seed" in done.stdout
    for name in ("samples.png", "reconstructions.png", "interpolation.png", "training.png"):
        assert (tmp_path / name).stat().st_size > 5000
