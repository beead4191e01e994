"""A handful of ``make torture``: runs that are killed go on as if they had not been, and mutated files are one line."""

import subprocess
import sys
from pathlib import Path


def test_killed_runs_go_on_and_mutated_files_are_refused_in_one_line():
    script = Path(__file__).with_name("torture.py")
    done = subprocess.run([sys.executable, script, "--kills", "3", "--mutations", "6"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
