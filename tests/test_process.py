"""How a process of a launch ends: with its status, its words, and nothing after them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from seo_rec.process import quiet_libraries
from seo_rec.train import LaunchError
from seo_rec.train.ranks import launched

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


@pytest.mark.parametrize("end", ["raise ValueError('7 is odd')", "sys.exit(1)"])
def test_what_a_failed_process_holds_is_not_torn_down(end: str) -> None:
    """The destructor of a process group waits for ranks that wait for this one."""
    held = f"    held = type('Held', (), {{'__del__': lambda _: os.abort()}})()\n    {end}"
    code = f"{BEGIN}{held}\nrun_and_leave(main)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; allowed: the number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'; allowed"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2'; allowed"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 without RANK, MASTER_ADDR, MASTER_PORT"),
        (
            {"WORLD_SIZE": "2", "RANK": "", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "WORLD_SIZE is 2 without RANK in the environment; start the processes with torchrun",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK is '2'; allowed: 0 to 1",
        ),
    ],
)
def test_a_launch_that_is_not_whole_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((ValueError, LaunchError), match=message), launched():
        pass


@pytest.mark.parametrize("text", ["", " ", "1"])
def test_no_launcher_is_one_process(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", text)
    monkeypatch.delenv("RANK", raising=False)
    with launched() as here:
        assert here.world_size == 1


def test_the_command_line_says_so_too(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Callable[..., Any]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    done = seo_rec("doctor")
    assert done.code == 2 and done.err.startswith("error: WORLD_SIZE is 'two'")
    monkeypatch.setenv("WORLD_SIZE", "")
    assert seo_rec("search", "--help").code == 0


def test_a_notice_of_torch_about_a_line_of_ours_is_not_shown():
    """Shards are told by ``size()`` in ``train/state.py``, which torch calls deprecated."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        quiet_libraries()
        text = "Please use DTensor instead and we are deprecating ShardedTensor."
        warnings.warn_explicit(text, FutureWarning, "state.py", 1, module="seo_rec.train.state")
        warnings.warn_explicit("take this", FutureWarning, "state.py", 1, module="seo_rec")
    assert [str(w.message) for w in shown] == ["take this"]


def test_ctrl_c_while_the_command_line_loads_is_one_line() -> None:
    program = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'seo_rec.cli.options':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from seo_rec.__main__ import main\n"
        "sys.argv = ['seo-rec', 'doctor']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.strip() == (
        "stopped by Ctrl-C: nothing was begun; the same command starts again"
    )
