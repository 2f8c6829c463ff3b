"""How a process of a launch ends: with its status, its words, and nothing after them."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import atexit, os, sys
from seo_rec.process import run_and_leave
atexit.register(os.abort)  # as a thread that outlives the interpreter
def main():
    print("done")
"""


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no such file')", 1, "no such file\n"),
        ("raise ValueError('7 is odd')", 1, "ValueError: 7 is odd\n"),
    ],
)
def test_a_process_of_a_launch_ends_with_its_status_whatever_its_threads_do(end, status, said):
    code = f"{BEGIN}    {end}\nrun_and_leave(main)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, "done\n")
    assert done.stderr.endswith(said) and bool(done.stderr) == bool(said)
