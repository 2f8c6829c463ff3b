"""The TorchX components: TorchX accepts them and builds from them the commands we mean.

tests/schedulers/test_requests.py has what each kind of cluster is asked for.
"""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import docstring_parser
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
        "train D --policy p.json --out R --seed 0 --resume",
    ),
    "tune": (
        ["--data", "D", "--method", "separate", "--out", "R"],
        "tune D --method separate --out R --trials 20 --resume",
    ),
    "compare": (["--data", "D", "--out", "R"], "compare D --out R"),
    "plan": (
        ["--policy", "p.json", "--topology", "8xH100-80GB", "--out", "plan.json"],
        "plan p.json --topology 8xH100-80GB --out plan.json",
    ),
    "evaluate": (["--run", "R", "--data", "D"], "eval R D --split test"),
    "benchmark": (["--", "--repeats", "3"], "--repeats 3"),
}
COMPONENTS = [
    "prepare", "search", "applier", "train", "tune", "compare", "plan", "evaluate", "benchmark",
]  # fmt: skip
DISTRIBUTED = [c for c in COMPONENTS if c != "plan"]
MACHINE = ["cpu", "gpu", "memMB", "h", "env", "mounts", "max_retries", "image"]


class TestTorchXAccepts(ComponentTestCase):
    def test_each(self) -> None:
        for name in COMPONENTS:
            with self.subTest(name):
                self.validate(seo, name)


def build(component: str, args: list[str]) -> AppDef:
    with get_runner() as runner:
        return runner.dryrun_component(f"{FILE}:{component}", args, scheduler="local_cwd")._app


def test_these_are_all():
    tree = ast.parse(FILE.read_text())
    public = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]
    assert public == COMPONENTS


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_takes_what_the_others_take_and_says_so(component):
    function = getattr(seo, component)
    parameters = list(inspect.signature(function).parameters)
    assert parameters[-8:] == MACHINE
    assert ("j" in parameters) == (component in DISTRIBUTED)
    described = docstring_parser.parse(function.__doc__).params
    assert [p.arg_name for p in described] == parameters
    assert all(p.description for p in described)


@pytest.mark.parametrize("case", CASES)
def test_the_command_is_the_one_we_mean_and_the_cli_takes_it(case):
    args, command = CASES[case]
    component = case.split()[0]
    app = build(component, args)
    assert app.name == f"seo-{component}"
    (role,) = app.roles
    assert role.entrypoint == sys.executable
    module = "benchmarks.ranks.throughput" if component == "benchmark" else "seo_rec"
    at = role.args.index(module)
    assert role.args[at - 1] == "-m"
    assert " ".join(role.args[at + 1 :]) == command
    assert ("torch.distributed.run" in role.args[:at]) == (component in DISTRIBUTED)
    if module == "seo_rec":
        parse(*role.args[at + 1 :])


def parse(name: str, *rest: str) -> None:
    """The command line reads these words."""
    from seo_rec.cli.main import app

    found = typer.main.get_command(app).commands[name]
    if hasattr(found, "commands"):  # prepare criteo
        name, *rest = rest
        found = found.commands[name]
    found.make_context(name, list(rest))


@pytest.mark.parametrize("component", DISTRIBUTED)
def test_j_is_the_number_of_processes(component):
    args, _ = CASES[component]
    (role,) = build(component, ["-j", "1x2", *args]).roles
    assert role.args[:4] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert role.num_replicas == 1
    assert role.env["GLOO_SOCKET_IFNAME"] == "lo"


def test_several_nodes_meet_at_the_first_one():
    meet = ["-j", "2x4", "--rdzv_port", "29611", "--rdzv_timeout", "60"]
    (role,) = build("search", [*meet, "--", "--out", "a 'b"]).roles
    assert role.num_replicas == 2
    assert role.port_map == {"c10d": 29611}
    assert "GLOO_SOCKET_IFNAME" not in role.env
    assert role.entrypoint == "bash"
    flag, line = role.args
    assert flag == "-c"
    first, line = line.split("; ")
    assert first == "[ ${replica_id} = 0 ] && is_host=1 || is_host=0"
    assert line.startswith(f"exec {sys.executable} -m torch.distributed.run --nnodes=2 ")
    assert "--rdzv_conf=is_host=$$is_host,join_timeout=60,read_timeout=60 " in line
    assert "--rdzv_endpoint=$${${rank0_env}:=localhost}:29611 --rdzv_id=${app_id} " in line
    assert line.endswith("""-m seo_rec job-search --out 'a '"'"'b'""")


def test_names_become_variables_of_a_cluster_and_have_no_dash():
    for component in COMPONENTS:
        args, _ = CASES[component]
        (role,) = build(component, args).roles
        assert role.name == component


def test_the_processes_share_the_cores():
    with mock.patch.dict("os.environ"), mock.patch("os.cpu_count", return_value=8):
        seo.os.environ.pop("OMP_NUM_THREADS", None)
        assert seo.search(j="1x2").roles[0].env["OMP_NUM_THREADS"] == "4"
        assert seo.search(j="1x16").roles[0].env["OMP_NUM_THREADS"] == "1"
        assert seo.search(j="2x2", cpu=6).roles[0].env["OMP_NUM_THREADS"] == "3"
        assert seo.search(j="1x2", cpu=6, image="i").roles[0].env["OMP_NUM_THREADS"] == "3"
        assert "OMP_NUM_THREADS" not in seo.search(j="1x2", image="i").roles[0].env
        seo.os.environ["OMP_NUM_THREADS"] = "3"
        assert seo.search(j="1x2").roles[0].env["OMP_NUM_THREADS"] == "3"
        assert seo.search(j="1x2", cpu=8, image="i").roles[0].env["OMP_NUM_THREADS"] == "4"
        given = seo.search(env={"OMP_NUM_THREADS": "5"})
        assert given.roles[0].env["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_machine_arrives(component):
    args, _ = CASES[component]
    own, _, rest = " ".join(args).partition("-- ")
    machine = "--cpu 8 --gpu 2 --memMB 9000 --max_retries 3 --image registry/seo:1 --env A=1,B=2"
    mount = "--mounts type=bind,src=/data,dst=/data,readonly"
    words = [*own.split(), *machine.split(), *mount.split(), "--", *rest.split()]
    (role,) = build(component, words).roles
    resource = role.resource
    assert (resource.cpu, resource.gpu, resource.memMB) == (8, 2, 9000)
    assert (role.entrypoint, role.image, role.max_retries) == ("python", "registry/seo:1", 3)
    assert (role.env["A"], role.env["B"]) == ("1", "2")
    assert [(m.src_path, m.dst_path, m.read_only) for m in role.mounts] == [("/data", "/data", 1)]


def test_a_named_resource_is_looked_up():
    (role,) = build("search", ["-h", "aws_p3.8xlarge", "-j", "1x4", "--image", "i"]).roles
    assert (role.resource.cpu, role.resource.gpu) == (32, 4)
    assert role.env["OMP_NUM_THREADS"] == "8"


@pytest.mark.parametrize("j", ["2", "1x", "1x0", "0x2", "x", "onextwo", "1x2x3", "-1x2", "1x02"])
def test_a_j_that_cannot_be_launched_is_refused(j):
    with pytest.raises(ValueError, match=r"allowed is \{nodes\}x\{processes on each\}"):
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


def test_installed_they_are_found_beside_torchxs_own():
    done = subprocess.run(
        [sys.executable, "-m", "torchx.cli.main", "builtins"], capture_output=True, text=True
    )
    names = re.findall(r"^ +\d+\. (\S+)$", done.stdout, re.MULTILINE)
    assert {f"seo.{component}" for component in COMPONENTS} <= set(names)
    assert {"dist.ddp", "utils.echo"} <= set(names)
