"""The TorchX components: TorchX accepts them and builds from them the commands we mean."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import typer
from torchx.components.component_test_base import ComponentTestCase
from torchx.runner import get_runner
from torchx.specs import AppDef

from components import seo

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "components" / "seo.py"

# Arguments of a component as typed after its name, and the command that has to come out.
CASES = {
    "search": ([], "job-search"),
    "search all": (
        ["--data", "D", "--out", "R", "--", "--seed", "3"],
        "job-search --data D --out R --seed 3",
    ),
    "applier": ([], "job-applier --strategy exact"),
    "applier all": (
        ["--data", "D", "--search", "R", "--out", "O"],
        "job-applier --data D --search R --out O --strategy exact",
    ),
    "prepare": (["--data_set", "synthetic", "--out", "D"], "prepare synthetic --out D"),
    "prepare raw": (
        ["--data_set", "criteo", "--raw", "day_0", "--out", "D"],
        "prepare criteo --raw day_0 --out D",
    ),
    "train": (
        ["--data", "D", "--policy", "p.json", "--out", "R"],
        "train D --policy p.json --out R --seed 0",
    ),
    "compare": (["--data", "D", "--out", "R"], "compare D --out R"),
}


class TestTorchXAccepts(ComponentTestCase):
    def test_each(self) -> None:
        for name in ("search", "applier", "prepare", "train", "compare"):
            with self.subTest(name):
                self.validate(seo, name)


def build(component: str, args: list[str]) -> AppDef:
    with get_runner() as runner:
        return runner.dryrun_component(f"{FILE}:{component}", args, scheduler="local_cwd")._app


@pytest.mark.parametrize("case", CASES)
def test_the_command_is_the_one_we_mean_and_the_cli_takes_it(case):
    args, command = CASES[case]
    (role,) = build(case.split()[0], args).roles
    assert role.entrypoint == sys.executable
    at = role.args.index("seo_rec")
    assert role.args[at - 1] == "-m"
    assert " ".join(role.args[at + 1 :]) == command

    from seo_rec.cli.main import app

    name, *rest = role.args[at + 1 :]
    found = typer.main.get_command(app).commands[name]
    if hasattr(found, "commands"):  # prepare criteo
        name, *rest = rest
        found = found.commands[name]
    found.make_context(name, list(rest))


@pytest.mark.parametrize("component", ["search", "train"])
def test_j_is_the_number_of_processes(component):
    args, _ = CASES[component]
    (role,) = build(component, ["-j", "1x2", *args]).roles
    assert role.args[:4] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert role.num_replicas == 1
    assert role.env["GLOO_SOCKET_IFNAME"] == "lo"


def test_the_processes_share_the_cores():
    with mock.patch.dict("os.environ"), mock.patch("os.cpu_count", return_value=8):
        seo.os.environ.pop("OMP_NUM_THREADS", None)
        assert seo.search(j="1x2").roles[0].env["OMP_NUM_THREADS"] == "4"
        assert seo.search(j="1x16").roles[0].env["OMP_NUM_THREADS"] == "1"
        seo.os.environ["OMP_NUM_THREADS"] = "3"
        assert seo.search(j="1x2").roles[0].env["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("j", ["2x2", "2", "1x", "1x0", "x", "onextwo"])
def test_a_j_that_cannot_be_launched_is_refused(j):
    with pytest.raises(ValueError, match="allowed is 1x<processes>"):
        seo.search(j=j)


@pytest.mark.parametrize("component", ["search", "applier"])
def test_as_typed_in_a_clone(component, tmp_path):
    """``torchx run components/seo.py:search``: the scheduler and the log folder are settled."""
    shutil.copytree(FILE.parent, tmp_path / "components")
    shutil.copy(ROOT / ".torchxconfig", tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torchx.cli.main",
            "run",
            "--dryrun",
            f"components/seo.py:{component}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"'job-{component}'" in done.stdout
    assert re.search(r"'log_dir': 'runs/torchx/logs/", done.stdout)
    assert f"'cwd': '{tmp_path}'" in done.stdout
