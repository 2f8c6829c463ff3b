"""Section 4 of Unified Embedding on real columns: variance of inner products, angles of weights.

    python -m benchmarks.analysis collisions --data data/ml-1m --record
    python -m benchmarks.analysis orthogonality --data data/ml-1m --epochs 4 --record
    python -m benchmarks.analysis show      # tables and picture of docs/measured/analysis.md

``collisions``: what ``seo-rec analyze collisions`` measures, 10,000 hash functions each.
``orthogonality``: the models of ``seo-rec analyze orthogonality --control``, one line each.

Both can be stopped and started again: what is in the record is not run twice. No line holds a row
or an id of the data.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.dimgrow import Records
from seo_rec import analysis
from seo_rec.analysis.inner_products import SIGMAS
from seo_rec.analysis.orthogonality import TABLES
from seo_rec.cli.main import quiet_libraries
from seo_rec.files import write_bytes
from seo_rec.report.charts import as_png
from seo_rec.schema import read_schema
from seo_rec.train import FitSettings

RECORD = Path(__file__).parent / "results" / "analysis.jsonl"
PICTURE = Path(__file__).parent.parent / "docs" / "measured" / "orthogonality.png"


def collisions(options: argparse.Namespace, records: Records) -> None:
    schema = read_schema(options.data)
    for rows in options.rows or (600, 6000, 60000):
        what = {
            "data": schema.fingerprint,
            "dataset": schema.dataset,
            "features": options.features,
            "rows": rows,
            "seeds": options.hashes,
            "share": options.share,
        }
        if records.has("collisions", **what):
            continue
        found = analysis.compare_encodings(
            options.data, (rows,), options.hashes, options.share, options.features
        )
        counts = analysis.shared_rows(options.data, (rows,), options.features)
        records.add(
            "collisions",
            what,
            inner_products=[asdict(m) | {"within": m.within} for m in found],
            shared_rows=[asdict(c) for c in counts],
        )


def orthogonality(options: argparse.Namespace, records: Records) -> None:
    schema = read_schema(options.data)
    fit = FitSettings(
        epochs=options.epochs,
        batch_size=options.batch_size,
        row_lr=options.lr,
        dense_lr=options.lr,
        average=0.0,
    )
    sizes = options.rows or (100, 1000, 10000, 100000)
    for seed, rows, tables in product(range(options.seeds), sizes, TABLES):
        what = {
            "data": schema.fingerprint,
            "dataset": schema.dataset,
            "features": options.features,
            "tables": tables,
            "rows": rows,
            "dim": options.dim,
            "seed": seed,
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "lr": options.lr,
        }
        if records.has("orthogonality", **what):
            continue
        settings = analysis.OrthogonalitySettings(
            (rows,), options.dim, features=tuple(options.features), tables=(tables,)
        )
        (found,) = analysis.orthogonality(options.data, settings, replace(fit, seed=seed))
        records.add("orthogonality", what, **asdict(found))


DATA = ("data", "rows")
MODEL = ("mean norm", "validation AUC", "epochs")


def show(options: argparse.Namespace, records: Records) -> None:
    """What was recorded, as tables for a document; the angles also as its picture."""
    lines = [json.loads(line) for line in RECORD.read_text().splitlines()]
    lines.sort(key=lambda r: (r["what"]["dataset"], r["what"]["rows"]))
    tables: dict[str, list[tuple[str, ...]]] = {
        "inner products": [
            ("data", "tokens", "rows", "encoding", "<x, y>", "mean", "variance", "closed form", "")
        ],
        "shared rows": [("data", "rows", "encoding", "intra", "expected", "inter", "expected")],
        "angles": [
            (*DATA, "ids per row", "tables", "mean angle", "least to largest", *MODEL),
        ],
    }
    unified: dict[str, list[analysis.Orthogonality]] = {}
    angles: dict[str, list[analysis.Orthogonality]] = {}
    for line in lines:
        what = line["what"]
        data = f"{what['dataset']}" + (f", {len(what['features'])}" if what["features"] else "")
        if line["part"] == "orthogonality":
            r = analysis.Orthogonality(**{k: line[k] for k in _names(analysis.Orthogonality)})
            cells = [data, f"{r.rows:,}", f"{r.ids_per_row:.3g}", r.tables, f"{r.mean_angle:.1f}°"]
            cells += [f"{r.least_angle:.1f}° to {r.largest_angle:.1f}°", f"{r.mean_norm:.3f}"]
            angles.setdefault(data, []).append(r)
            if r.tables == "unified":
                unified.setdefault(data, []).append(r)
            tables["angles"].append((*cells, f"{r.val_auc:.5f}", str(r.epochs)))
            continue
        for found in line["inner_products"]:
            m = analysis.Measured(**{k: found[k] for k in _names(analysis.Measured)})
            cells = [data, m.tokens, f"{m.num_rows:,}", m.encoding, str(m.inner)]
            cells += [f"{m.mean:.4f} ± {SIGMAS * m.mean_error:.4f}"]
            cells += [f"{m.variance:.4g} ± {SIGMAS * m.variance_error:.2g}", f"{m.closed_form:.4g}"]
            tables["inner products"].append((*cells, "" if m.within else "outside"))
        for c in line["shared_rows"]:
            shares = [c[k][v] for k in ("intra", "inter") for v in ("actual", "expected")]
            tables["shared rows"].append(
                (data, f"{c['num_rows']:,}", c["method"], *(f"{100 * s:.1f} %" for s in shares))
            )
    for name, (headings, *rows) in tables.items():
        print(f"\n{name}\n\n| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
    for dataset, models in unified.items():
        print(f"\n{dataset}: squared norm of a shared row ~ N/M ^ {analysis.growth(models):.2f}")
    pictured = next(iter(angles))  # the Criteo columns, as in the paper's Figure 2
    write_bytes(PICTURE, as_png(analysis.figure(angles[pictured])))
    print(f"\n{pictured}: {PICTURE.name}")


def _names(kind: type[Any]) -> list[str]:
    return [f.name for f in fields(kind)]


PARTS = {"collisions": collisions, "orthogonality": orthogonality, "show": show}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, help="prepared data set")
    parser.add_argument("--features", nargs="*", default=[], help="names (default: all)")
    parser.add_argument("--rows", type=int, nargs="*", help="rows of all tables together")
    parser.add_argument("--hashes", type=int, default=10_000, help="hash functions")
    parser.add_argument("--share", type=float, default=0.01, help="part of every vocabulary")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    options = parser.parse_args()
    if options.data is None and options.part != "show":
        parser.error(f"{options.part} needs --data")
    torch.set_num_threads(options.threads)
    quiet_libraries()
    PARTS[options.part](options, Records(RECORD if options.record else None))


if __name__ == "__main__":
    main()
