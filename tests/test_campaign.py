"""A slice of the campaign, which finds no fault."""

import re
import subprocess
import sys
from pathlib import Path

CAMPAIGN = Path(__file__).parent / "campaign.py"


def test_whatever_is_damaged_nothing_ends_badly_and_nothing_wrong_is_believed():
    command = [sys.executable, CAMPAIGN, "--seed", "2", "--results", "24", "--images", "60", "--crashes", "3"]
    done = subprocess.run([*command, "--seconds", "60"], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+): (\d+) of", done.stdout, re.MULTILINE))
    assert min(int(counts[name]) for name in ("results", "images", "crashes")) > 0
