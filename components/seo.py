"""TorchX components of seo_rec: each builds the command of one job and does nothing else.

From a clone: ``torchx run components/seo.py:search``; from an installed package:
``torchx run seo.search``. Arguments after ``--`` are appended to the job's own command, so
``torchx run components/seo.py:search -- --dim 32`` reaches ``seo-rec search --dim 32``.

TorchX runs this file inside one of its own modules and reads the signatures itself: it knows
``typing.Optional`` and plain types, and neither ``X | None`` nor postponed annotations.
"""

import os
import sys
from typing import List, Mapping, Optional, Union

import torchx.specs as specs


def _options(values: Mapping[str, Union[str, int, None]]) -> List[str]:
    """``--name value`` for each value that is given."""
    given = [(name, value) for name, value in values.items() if value is not None]
    return [part for name, value in given for part in (f"--{name}", str(value))]


def _role(name: str, args: List[str], nproc: int = 1) -> specs.Role:
    """One node that runs ``args`` in this interpreter and in the working directory."""
    threads = max(1, (os.cpu_count() or 1) // nproc)
    return specs.Role(
        name=name,
        image="",
        entrypoint=sys.executable,
        args=args,
        env={
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            "GLOO_SOCKET_IFNAME": "lo",  # all processes are on this node
            "PYTHONUNBUFFERED": "1",
        },
    )


def _command(*args: str) -> List[str]:
    """The command of a job that is one process."""
    return ["-m", "seo_rec", *args]


def _torchrun(j: str, *args: str) -> specs.Role:
    """The role of a job that may be several processes: ``j`` is {nnodes}x{nproc_per_node}."""
    nnodes, _, nproc = j.partition("x")
    if nnodes != "1" or not nproc.isdigit() or int(nproc) < 1:
        raise ValueError(
            f"-j is {j!r}; allowed is 1x<processes>, e.g. 1x2. For several nodes use "
            f"torchx run dist.ddp -j {{nnodes}}x{{nproc}} -m seo_rec -- {' '.join(args)}"
        )
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={nproc}"]
    return _role(args[0], [*launcher, *_command(*args)], nproc=int(nproc))


def search(
    *script_args: str,
    data: Optional[str] = None,
    out: Optional[str] = None,
    j: str = "1x1",
) -> specs.AppDef:
    """Searches which tables each feature reads; on the synthetic data set by default.

    Args:
        script_args: further options of `seo-rec search`
        data: prepared data set; default: the synthetic one, made if absent
        out: folder of the search; default: runs/torchx/search
        j: {nnodes}x{nproc_per_node}
    """
    role = _torchrun(j, "job-search", *_options({"data": data, "out": out}), *script_args)
    return specs.AppDef(name="seo-search", roles=[role])


def applier(
    *script_args: str,
    data: Optional[str] = None,
    search: Optional[str] = None,
    out: Optional[str] = None,
    strategy: str = "exact",
    j: str = "1x1",
) -> specs.AppDef:
    """Applies the policy of a search and trains it from scratch; searches first if need be.

    Args:
        script_args: further options of `seo-rec train`
        data: prepared data set; default: that of the search
        search: folder of the search; default: runs/torchx/search
        out: folder of the applier's run; default: runs/torchx/applier
        strategy: exact or round-robin
        j: {nnodes}x{nproc_per_node}
    """
    given = {"data": data, "search": search, "out": out, "strategy": strategy}
    role = _torchrun(j, "job-applier", *_options(given), *script_args)
    return specs.AppDef(name="seo-applier", roles=[role])


def prepare(*script_args: str, data_set: str, out: str, raw: Optional[str] = None) -> specs.AppDef:
    """Prepares a raw data set.

    Args:
        script_args: further options of `seo-rec prepare`
        data_set: name of the data set, e.g. synthetic
        out: folder of the prepared data set
        raw: the raw files; not needed for synthetic
    """
    options = _options({"raw": raw, "out": out})
    command = _command("prepare", data_set, *options, *script_args)
    return specs.AppDef(name="seo-prepare", roles=[_role("prepare", command)])


def train(
    *script_args: str, data: str, policy: str, out: str, seed: int = 0, j: str = "1x1"
) -> specs.AppDef:
    """Trains a model whose embeddings follow a policy.

    Args:
        script_args: further options of `seo-rec train`
        data: prepared data set
        policy: policy.json of a method, a search or the applier
        out: run directory
        seed: seed of the run
        j: {nnodes}x{nproc_per_node}
    """
    options = _options({"policy": policy, "out": out, "seed": seed})
    role = _torchrun(j, "train", data, *options, *script_args)
    return specs.AppDef(name="seo-train", roles=[role])


def compare(*script_args: str, data: str, out: str) -> specs.AppDef:
    """Compares methods at one memory budget.

    Args:
        script_args: further options of `seo-rec compare`
        data: prepared data set
        out: folder of the comparison
    """
    command = _command("compare", data, "--out", out, *script_args)
    return specs.AppDef(name="seo-compare", roles=[_role("compare", command)])
