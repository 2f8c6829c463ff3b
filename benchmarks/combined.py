"""Two searches in one policy: the widths that one finds, in the shared chunk tables of SEO.

    python -m benchmarks.combined --data data/ml-1m --searches runs/ml-1m-widths/searches --record

DimGrow, SSEDS and AutoDim decide how wide a feature is and give every feature its own table; SEO
shares chunk tables, and decides by attention. Here a feature that a search gave width d reads
``max(1, round(d / chunk_dim))`` chunks of shared tables, dealt round robin, at the same budget as
that search (whose policies are found in ``--searches``, a folder of ``benchmarks.evidence``). Every
candidate is trained like the others of that study; the plain forms stand beside it there. Which of
them is worth keeping is read from the validation AUC.

All policies are read and checked before the first training. Runs go to ``--out`` and are found
again there, also unfinished ones; ``--record`` adds the lines that the record does not have yet.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import append_jsonl
from seo_rec import apply, recipes
from seo_rec.cli.main import quiet_libraries
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.report.comparison import paired_difference, spread
from seo_rec.report.formats import difference, p_value, plus_minus
from seo_rec.schema import Schema, read_schema
from seo_rec.search.seo import SeoSettings, search_space
from seo_rec.train import FitSettings

RESULTS = Path(__file__).parent / "results"
RECORD = RESULTS / "combined.jsonl"
METHODS = ("dimgrow", "sseds", "autodim")
CHUNK_DIMS = (4, 2)
SEEDS = 3

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training: the widths that ``search`` found, in chunks of ``chunk_dim`` floats."""

    search: str
    chunk_dim: int
    data: Path
    schema: Schema
    policy: Policy
    fit: FitSettings

    @property
    def name(self) -> str:
        return f"{self.search}-chunks-{self.chunk_dim}"

    @property
    def what(self) -> dict[str, Any]:
        """What a line of the record is of, whatever came out."""
        return {
            "method": self.name,
            "search": self.search,
            "chunk_dim": self.chunk_dim,
            "seed": self.fit.seed,
            "data_fingerprint": self.schema.fingerprint,
            "params": self.policy.provenance["params"],
            "lookups": {f.name: len(f.lookups) for f in self.policy.features},
            "fit": asdict(self.fit),
        }


def read_found(path: Path, schema: Schema, params: int) -> Policy:
    """The policy of a search of widths on these data at this budget.

    Raises:
        ValueError: it is of other data or of another budget, shares a table, or leaves ids out,
            which chunk tables have no way to.
    """
    found = Policy.load(path)
    origin = found.provenance
    if origin.get("data_fingerprint") != schema.fingerprint:
        raise ValueError(
            f"{path}: of the data {origin.get('data_fingerprint')}; allowed: policies of "
            f"{schema.fingerprint}, in the order of --data"
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
        and len(found.vocabularies[f.name]) != schema.vocab_size(f.name)
    ]
    if pruned:
        raise ValueError(
            f"{path}: ids of {', '.join(pruned)} are pruned, and chunk tables would bring them "
            "back; allowed: searches of widths alone"
        )
    return found


def shared(found: Policy, data: Path, params: int, chunk_dim: int, seed: int) -> Policy:
    """As many chunks as ``found``'s widths ask for, in shared tables of ``params`` floats.

    Args:
        found: tables of every feature's own, as searches of widths leave them.
        chunk_dim: width of a chunk.
    """
    widths = dict(zip((f.name for f in found.features), found.widths, strict=True))
    counts = {name: max(1, round(width / chunk_dim)) for name, width in widths.items()}
    most = max(counts.values()) * chunk_dim
    settings = SeoSettings(1, dim=most, chunk_dim=chunk_dim, search_dim=most)
    space = search_space(read_schema(data), settings, seed)
    features = tuple(
        replace(f, lookups=f.lookups[: counts[f.name]])
        for f in space.features
        if f.name in counts  # what the search dropped stays dropped
    )
    dropped = tuple(f.name for f in space.features if f.name not in counts)
    origin = {"method": "widths-in-chunks", "of": dict(found.provenance)}
    chosen = replace(space, features=features, dropped=dropped, provenance=origin)
    return apply.round_robin(chosen, params)


def cells(options: argparse.Namespace) -> list[Cell]:
    """Everything to train, seed by seed; see :func:`read_found` for what is refused."""
    found = []
    for seed in range(options.seeds):
        data = options.data[seed % len(options.data)]
        schema = read_schema(data)
        fit = FitSettings(
            batch_size=options.batch_size,
            row_lr=options.lr,
            dense_lr=options.lr,
            row_l2=options.l2,
            seed=seed,
        )
        for method in options.methods:
            path = options.searches / f"{method}-seed{seed}" / "policy.json"
            widths = read_found(path, schema, options.params)
            for chunk_dim in options.chunk_dims:
                policy = shared(widths, data, options.params, chunk_dim, seed)
                found.append(Cell(method, chunk_dim, data, schema, policy, fit))
    return found


def train(cell: Cell, out: Path) -> recipes.Run:
    """Train a cell, or find it again in ``out``."""
    fit = cell.fit
    name = f"{cell.name}-seed{fit.seed}-{fit.batch_size}-{fit.row_lr:g}-{fit.row_l2:g}"
    folder = out / f"{cell.schema.fingerprint}-{cell.policy.provenance['params']}" / name
    return recipes.train(
        cell.data, cell.policy, folder, ModelSettings(), fit, method=cell.name, resume=True
    )


def command_of(options: argparse.Namespace) -> str:
    """The command with every option that says what is run."""
    words = ["python", "-m", "benchmarks.combined"]
    for name in (
        "data", "searches", "methods", "params", "chunk_dims", "seeds", "batch_size", "lr", "l2"
    ):  # fmt: skip
        value = getattr(options, name)
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name.replace('_', '-')}", *(str(v) for v in values)]
    return shlex.join(words)


def key_of(line: Line) -> str:
    names = ("method", "seed", "data_fingerprint", "params", "lookups", "fit")
    return json.dumps([line[name] for name in names], sort_keys=True)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


# ---- the table ---------------------------------------------------------------------------


def page_lines(
    lines: Sequence[Line] | None = None, plain: Sequence[Line] | None = None
) -> list[str]:
    """Tables in Markdown by data set and budget, and how much of the plan they hold.

    Args:
        lines: default: the record.
        plain: runs of the searches' own policies; default: those of ``benchmarks.evidence``.
    """
    lines = read(RECORD) if lines is None else lines
    if plain is None:
        plain = [
            line for name in ("movielens", "criteo") for line in read(RESULTS / f"{name}.jsonl")
        ]
    planned = len(METHODS) * len(CHUNK_DIMS) * SEEDS
    if not lines:
        return [f"Nothing is recorded yet; a data set and budget have {planned} runs."]
    out: list[str] = []
    groups = dict.fromkeys((line["data"], line["params"]) for line in lines)
    for data, params in groups:
        here = [line for line in lines if (line["data"], line["params"]) == (data, params)]
        done = {(line["method"], line["seed"]) for line in here}
        out += [
            f"{data}, {params:,} floats: {len(done)} of {planned} runs.",
            "",
            "| widths of | chunks of | seeds | validation AUC | test AUC | own tables, test AUC "
            "| chunks − own |",
            "|---" * 7 + "|",
        ]
        for search, chunk_dim in dict.fromkeys((x["search"], x["chunk_dim"]) for x in here):
            runs = {x["seed"]: x for x in here if x["method"] == f"{search}-chunks-{chunk_dim}"}
            own = {
                x["seed"]: x
                for x in plain
                if x["method"] == search
                and x["budget"] == params
                and x["seed"] in runs
                and x["data_fingerprint"] == runs[x["seed"]]["data_fingerprint"]
            }
            both = sorted(own)
            row = [search, str(chunk_dim), str(len(runs)), _spread(runs, "val_auc")]
            row += [_spread(runs, "test_auc"), _spread(own, "test_auc"), ""]
            if both:
                d = paired_difference(*([x[s]["test_auc"] for s in both] for x in (runs, own)))
                row[-1] = f"{difference(d.mean, d.standard_error)} (p {p_value(d.p)})"
            out.append("| " + " | ".join(row) + " |")
        out.append("")
    return out[:-1]


def _spread(runs: Mapping[int, Line], key: str) -> str:
    if not runs:
        return "not recorded"
    found = spread([line[key] for line in runs.values()])
    return plus_minus(found.mean, found.sd)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prepared data sets")
    parser.add_argument("--searches", type=Path, required=True, help="folder of finished searches")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--params", type=int, default=96_000, help="the budget of the searches")
    parser.add_argument("--chunk-dims", type=int, nargs="*", default=list(CHUNK_DIMS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--l2", type=float, default=2e-4)
    parser.add_argument("--out", type=Path, default=Path("runs/combined"), help="run folders")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--record", action="store_true", help=f"append to {RECORD.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet_libraries()
    try:
        wanted = cells(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    known = {key_of(line) for line in read(RECORD)}
    for cell in wanted:
        key = key_of(json.loads(json.dumps(cell.what)))
        if options.record and key in known:
            continue
        run = train(cell, options.out)
        print(
            f"{cell.name} seed {cell.fit.seed}: {recipes.describe(cell.policy)}; validation "
            f"{run.val_auc:.5f}, test {run.test_auc:.5f}",
            flush=True,
        )
        if options.record:
            line = {
                **cell.what,
                "data": run.data,
                "embedding_params": run.embedding_params,
                "val_auc": run.val_auc,
                "test_auc": run.test_auc,
                "test_logloss": run.test_logloss,
                "epochs": run.epochs,
                "seconds": run.seconds,
                "command": command_of(options),
                "environment": run.environment,
            }
            append_jsonl(RECORD, line)
            known.add(key)


if __name__ == "__main__":
    main()
