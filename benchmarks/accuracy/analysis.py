"""Section 4 of Unified Embedding on real columns: variance of inner products, angles of weights.

    python -m benchmarks.accuracy.analysis collisions --data data/ml-1m --record
    python -m benchmarks.accuracy.analysis orthogonality --data data/ml-1m --epochs 4 --record

``collisions``: what ``seo-rec analyze collisions`` measures, 10,000 hash functions each.
``orthogonality``: the models of ``seo-rec analyze orthogonality --control``, one line each.

Both can be stopped and started again: no run that is in the record is repeated. No line holds a row
or an id of the data.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, path_of, stamp
from seo_rec import analysis
from seo_rec.analysis.orthogonality import TABLES
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.settings import FitSettings

RECORD = path_of("analysis")
IDENTITY = ("part", "what")


def keep(records: Records, part: str, what: Line, found: Line) -> None:
    """Print and record what came out of one measurement."""
    line = records.add({"part": part, "what": what, **found, "environment": stamp()})
    print(json.dumps(line, sort_keys=True), flush=True)


def collisions(options: argparse.Namespace, data: DataSet, records: Records) -> None:
    for rows in options.rows or (600, 6000, 60000):
        what = {
            "data": data.fingerprint,
            "dataset": data.schema.dataset,
            "features": options.features,
            "rows": rows,
            "seeds": options.hashes,
            "share": options.share,
        }
        if records.find({"part": "collisions", "what": what}):
            continue
        found = analysis.compare_encodings(
            data, (rows,), options.hashes, options.share, options.features
        )
        counts = analysis.shared_rows(data, (rows,), options.features)
        products = [asdict(m) | {"within": m.within} for m in found]
        shared = [asdict(c) for c in counts]
        keep(records, "collisions", what, {"inner_products": products, "shared_rows": shared})


def orthogonality(options: argparse.Namespace, data: DataSet, records: Records) -> None:
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
            "data": data.fingerprint,
            "dataset": data.schema.dataset,
            "features": options.features,
            "tables": tables,
            "rows": rows,
            "dim": options.dim,
            "seed": seed,
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "lr": options.lr,
        }
        if records.find({"part": "orthogonality", "what": what}):
            continue
        settings = analysis.OrthogonalitySettings(
            (rows,), options.dim, features=tuple(options.features), tables=(tables,)
        )
        (found,) = analysis.orthogonality(data, settings, replace(fit, seed=seed))
        keep(records, "orthogonality", what, asdict(found))


PARTS = {"collisions": collisions, "orthogonality": orthogonality}


def main() -> None:
    parser = make_parser(__doc__, RECORD)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--features", nargs="*", default=[], help="names (default: all)")
    parser.add_argument("--rows", type=int, nargs="*", help="rows of all tables together")
    parser.add_argument("--hashes", type=int, default=10_000, help="hash functions")
    parser.add_argument("--share", type=float, default=0.01, help="part of every vocabulary")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()
    set_up(options.threads)
    records = Records(RECORD if options.record else None, IDENTITY)
    PARTS[options.part](options, open_data(options.data), records)


if __name__ == "__main__":
    main()
