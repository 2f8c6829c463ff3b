r"""Two ways to decide in one policy, beside each of them alone.

    python -m benchmarks.accuracy.combined --data data/ml-1m --record \
        --searches runs/ml-1m-widths/searches

``chunks``: the widths that one search finds, in the shared chunk tables of SEO. DimGrow and SSEDS
decide how wide a feature is and give every feature its own table; SEO shares chunk tables, and
decides by attention. Here a feature that a search gave width d reads ``max(1, round(d /
chunk_dim))`` chunks of shared tables, dealt round robin, at the same budget as that search. The
policies of the searches are in ``--searches``, a folder of ``benchmarks.accuracy.evidence``. Where
every feature would read one chunk, no width is left of them, and the table says "degenerate".

``beside``: OptEmbed's pruned tables in half the budget, each feature its own, and beside them
chunks that all features share, ``16 / chunk_dim`` tables in the rest of it (multi-size). Ids that
were pruned still have chunks. The search at half the budget is made here, before the trainings.

Every candidate is trained like the runs of ``benchmarks.accuracy.evidence``, whose lines stand
beside it: the same search alone, with its own tables at the whole budget (study
``ml-1m-widths``), and SEO alone (``ml-1m``), where data, budget and settings are the same. Which of
them is worth keeping is read from the validation AUC.

All policies of ``--searches`` are read and checked before the first training. Runs go to ``--out``
and are found again there, also unfinished ones; ``--record`` adds the lines that the record does
not have yet.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, set_up
from benchmarks.record import Records, outcome, path_of, recorded_fit
from seo_rec import apply, methods, recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.policy import Policy
from seo_rec.runs import Run, describe
from seo_rec.runs.layout import POLICY_FILE
from seo_rec.search.optembed import OptEmbedSettings
from seo_rec.search.run_off import side_by_side
from seo_rec.search.seo import SeoSettings, search_space
from seo_rec.settings import FitSettings, Training

RECORD = path_of("combined")
IDENTITY = ("method", "seed", "data_fingerprint", "params", "lookups", "tables", "fit")
METHODS = ("dimgrow", "sseds")
FORMS = ("chunks", "beside")
CHUNK_DIMS = (4,)
SEEDS = 3
DIM, WIDEST = 16, 32  # of the multi-size chunks, and of OptEmbed as in benchmarks.accuracy.evidence
PLANNED = (len(METHODS) + 1) * len(CHUNK_DIMS) * SEEDS  # with the one search of "beside"


@dataclass(frozen=True)
class Cell:
    """One training: what ``search`` found, in or beside chunks of ``chunk_dim`` floats."""

    form: str
    search: str
    chunk_dim: int
    data: DataSet
    policy: Policy
    params: int
    fit: FitSettings

    @property
    def name(self) -> str:
        return f"{self.search}-{self.form}-{self.chunk_dim}"

    @property
    def what(self) -> dict[str, Any]:
        """What a line of the record is of, whatever came out."""
        return {
            "method": self.name,
            "form": self.form,
            "search": self.search,
            "chunk_dim": self.chunk_dim,
            "seed": self.fit.seed,
            "data_fingerprint": self.data.fingerprint,
            "params": self.params,
            "lookups": {f.name: len(f.lookups) for f in self.policy.features},
            "tables": [[t.name, t.num_rows, t.dim] for t in self.policy.tables],
            "fit": recorded_fit(self.fit),
        }


def read_policy(path: Path, data: DataSet, params: int) -> Policy:
    """The policy of a search of widths on these data at this budget.

    Raises:
        ValueError: it is of other data or of another budget, shares a table, or leaves ids out,
            which chunk tables have no way to.
    """
    found = Policy.load(path)
    origin = found.provenance
    if origin.get("data_fingerprint") != data.fingerprint:
        raise ValueError(
            f"{path}: of the data {origin.get('data_fingerprint')}; allowed: policies of "
            f"{data.fingerprint}, in the order of --data"
        )
    searched = origin.get("arguments", {}).get("params")
    if searched != params:
        raise ValueError(
            f"{path}: searched at a budget of {searched} parameters and --params is {params}; "
            "allowed: the budget of the searches"
        )
    read = [k.table for f in found.features for k in f.all_lookups]
    if len(set(read)) != len(read):
        raise ValueError(f"{path}: allowed: policies whose features share no table")
    pruned = [
        f.name
        for f in found.features
        if f.name in found.vocabularies
        and len(found.vocabularies[f.name]) != data.schema.vocab_size(f.name)
    ]
    if pruned:
        raise ValueError(
            f"{path}: ids of {', '.join(pruned)} are pruned, and chunk tables would bring them "
            "back; allowed: searches of widths alone"
        )
    return found


def shared(found: Policy, data: DataSet, params: int, chunk_dim: int, seed: int) -> Policy:
    """As many chunks as ``found``'s widths ask for, in shared tables of ``params`` floats.

    Args:
        found: tables of every feature's own, as searches of widths leave them.
        chunk_dim: width of a chunk.
    """
    widths = dict(zip((f.name for f in found.features), found.widths, strict=True))
    counts = {name: max(1, round(width / chunk_dim)) for name, width in widths.items()}
    most = max(counts.values()) * chunk_dim
    settings = SeoSettings(1, dim=most, chunk_dim=chunk_dim, search_dim=most)
    space = search_space(data.schema, settings, seed)
    features = tuple(
        replace(f, lookups=f.lookups[: counts[f.name]])
        for f in space.features
        if f.name in counts  # what the search dropped stays dropped
    )
    dropped = tuple(f.name for f in space.features if f.name not in counts)
    origin = {"method": "widths-in-chunks", "of": dict(found.provenance)}
    chosen = replace(space, features=features, dropped=dropped, provenance=origin)
    return apply.round_robin(chosen, params)


def beside(own: Policy, data: DataSet, params: int, chunk_dim: int, seed: int) -> Policy:
    """``own``'s tables, and in the rest of ``params`` chunks that all features read.

    A feature that ``own`` drops has chunks alone.

    Raises:
        ValueError: ``DIM`` is not a multiple of ``chunk_dim``.
    """
    if chunk_dim < 1 or DIM % chunk_dim:
        raise ValueError(f"chunks of {chunk_dim} floats; allowed: divisors of {DIM}")
    schema, rest = data.schema, params - own.num_params
    chunks = methods.multi_size(schema, rest, DIM, lookups=DIM // chunk_dim, seed=seed)
    served = {f.name for f in own.features}
    alike = replace(chunks, features=tuple(f for f in chunks.features if f.name in served))
    origin = {"method": "beside-chunks", "of": dict(own.provenance), "params": params}
    both = side_by_side(own, alike, origin)
    features = {f.name: f for f in (*chunks.features, *both.features)}  # the second of a name
    return replace(both, features=tuple(features[c.name] for c in schema.features))


def cells(options: argparse.Namespace) -> list[Cell]:
    """Everything to train, seed by seed; see :func:`read_policy` for its errors.

    The searches of ``beside`` are made when all that is read was found to be right.
    """
    found, later = [], []
    opened = [open_data(path) for path in options.data]
    for seed in range(options.seeds):
        data = opened[seed % len(opened)]
        fit = FitSettings(
            batch_size=options.batch_size,
            row_lr=options.lr,
            dense_lr=options.lr,
            row_l2=options.l2,
            seed=seed,
        )
        later.append((data, fit))
        for method in options.methods if "chunks" in options.forms else ():
            path = options.searches / f"{method}-seed{seed}" / POLICY_FILE
            widths = read_policy(path, data, options.params)
            for chunk_dim in options.chunk_dims:
                policy = shared(widths, data, options.params, chunk_dim, seed)
                found.append(Cell("chunks", method, chunk_dim, data, policy, options.params, fit))
    for data, fit in later if "beside" in options.forms else ():
        own = search_half(data, options, fit)
        for chunk_dim in options.chunk_dims:
            policy = beside(own, data, options.params, chunk_dim, fit.seed)
            found.append(Cell("beside", "optembed", chunk_dim, data, policy, options.params, fit))
    return sorted(found, key=lambda cell: cell.fit.seed)


def search_half(data: DataSet, options: argparse.Namespace, fit: FitSettings) -> Policy:
    """OptEmbed's policy at half the budget, or the one that is in ``--out``."""
    settings = OptEmbedSettings(params=options.params // 2, max_dim=WIDEST)
    folder = folder_of(data, options.params, options.out) / f"optembed-half-{_of_fit(fit)}"
    training = Training(fit=fit)
    return recipes.search("optembed", data, folder, settings, training, resume=True).policy


def folder_of(data: DataSet, params: int, out: Path) -> Path:
    return out / f"{data.fingerprint}-{params}"


def _of_fit(fit: FitSettings) -> str:
    return f"seed{fit.seed}-{fit.batch_size}-{fit.row_lr:g}-{fit.row_l2:g}"


def train(cell: Cell, out: Path) -> Run:
    """Train a cell, or find it again in ``out``."""
    folder = folder_of(cell.data, cell.params, out) / f"{cell.name}-{_of_fit(cell.fit)}"
    training = Training(fit=cell.fit)
    return recipes.train(cell.data, cell.policy, folder, training, method=cell.name, resume=True)


def command_of(options: argparse.Namespace) -> str:
    """The command with every option that decides the runs."""
    words = ["python", "-m", "benchmarks.accuracy.combined"]
    for name in (
        "data", "searches", "forms", "methods", "params", "chunk_dims", "seeds", "batch_size", "lr",
        "l2",
    ):  # fmt: skip
        value = getattr(options, name)
        if value is None:
            continue
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name.replace('_', '-')}", *(str(v) for v in values)]
    return shlex.join(words)


def main() -> None:
    parser = make_parser(__doc__, RECORD, out="runs/combined")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prepared data sets")
    parser.add_argument("--searches", type=Path, help="folder of finished searches, of `chunks`")
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="of `chunks`")
    parser.add_argument("--params", type=int, default=96_000, help="the budget of the searches")
    parser.add_argument("--chunk-dims", type=int, nargs="*", default=list(CHUNK_DIMS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--l2", type=float, default=2e-4)
    options = parser.parse_args()
    set_up(options.threads)
    if "chunks" in options.forms and options.searches is None:
        parser.error("--searches is needed for the form chunks")
    try:
        wanted = cells(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    records = Records(RECORD if options.record else None, IDENTITY)
    for cell in wanted:
        if records.find(cell.what):
            continue
        run = train(cell, options.out)
        print(
            f"{cell.name} seed {cell.fit.seed}: {describe(cell.policy)}; validation "
            f"{run.val_auc:.5f}, test {run.test_auc:.5f}",
            flush=True,
        )
        records.add({**outcome(run), **cell.what, "command": command_of(options)})


if __name__ == "__main__":
    main()
