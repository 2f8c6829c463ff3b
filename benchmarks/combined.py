"""Two searches in one policy: the widths that one finds, in the shared chunk tables of SEO.

    python -m benchmarks.combined --data data/ml-1m --searches runs/ml-1m-widths/searches --record

DimGrow, SSEDS and AutoDim decide how wide a feature is and give every feature its own table; SEO
shares chunk tables, and decides by attention. Here a feature that a search gave width d reads
``max(1, round(d / chunk_dim))`` chunks of shared tables, dealt round robin, at the same budget as
that search (whose policies are found in ``--searches``, a folder of ``benchmarks.evidence``). Every
candidate is trained like the others of that study; the plain forms stand beside it there. Which of
them is worth keeping is read from the validation AUC.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.environment import append_jsonl
from benchmarks.evidence import RESULTS
from seo_rec import apply, recipes
from seo_rec.cli.main import quiet_libraries
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.schema import read_schema
from seo_rec.search.seo import SeoSettings, search_space
from seo_rec.train import FitSettings

RECORD = RESULTS / "combined.jsonl"


def shared(found: Policy, data: Path, params: int, chunk_dim: int, seed: int) -> Policy:
    """As many chunks as ``found``'s widths ask for, in shared tables of ``params`` floats.

    Args:
        found: one table per feature, as searches of widths leave it.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prepared data sets")
    parser.add_argument("--searches", type=Path, required=True, help="folder of finished searches")
    parser.add_argument("--methods", nargs="*", default=["dimgrow", "sseds", "autodim"])
    parser.add_argument("--params", type=int, default=96_000)
    parser.add_argument("--chunk-dims", type=int, nargs="*", default=[4, 2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--l2", type=float, default=2e-4)
    parser.add_argument("--out", type=Path, default=Path("runs/combined"), help="run folders")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--record", action="store_true", help=f"append to {RECORD.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet_libraries()
    for seed in range(options.seeds):
        data = options.data[seed % len(options.data)]
        for method in options.methods:
            found = Policy.load(options.searches / f"{method}-seed{seed}" / "policy.json")
            for chunk_dim in options.chunk_dims:
                policy = shared(found, data, options.params, chunk_dim, seed)
                name = f"{method}-chunks-{chunk_dim}"
                folder = options.out / f"{data.name}-{options.params}" / f"{name}-seed{seed}"
                known = (folder / recipes.RESULT_FILE).exists()
                fit = FitSettings(
                    batch_size=options.batch_size,
                    row_lr=options.lr,
                    dense_lr=options.lr,
                    row_l2=options.l2,
                    seed=seed,
                )
                run = recipes.train(
                    data, policy, folder, ModelSettings(), fit, method=name, resume=True
                )
                print(
                    f"{name} seed {seed}: {recipes.describe(policy)}; validation "
                    f"{run.val_auc:.5f}, test {run.test_auc:.5f}",
                    flush=True,
                )
                if options.record and not known:
                    line = {
                        "method": name,
                        "seed": seed,
                        "data": run.data,
                        "data_fingerprint": run.data_fingerprint,
                        "embedding_params": run.embedding_params,
                        "lookups": [len(f.lookups) for f in policy.features],
                        "val_auc": run.val_auc,
                        "test_auc": run.test_auc,
                        "test_logloss": run.test_logloss,
                        "command": "python -m benchmarks.combined --data "
                        + " ".join(str(d) for d in options.data),
                        "environment": run.environment,
                    }
                    append_jsonl(RECORD, line)


if __name__ == "__main__":
    main()
