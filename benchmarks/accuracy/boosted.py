"""What do gradient boosted trees reach on the same splits: AUC, bytes of the model, seconds?

    pip install lightgbm catboost
    python -m benchmarks.accuracy.boosted criteo --data data/criteo-50 ... data/criteo-54

LightGBM gets the ids of a column as the ranks of their counts in the training rows, the most
frequent first; columns of more than ``--categories`` ids are cut there, the rest of their ids and
unknown ones are missing. CatBoost gets ids as they are and makes statistics of the label of them,
in the order of a permutation. Both stop by validation log loss. The bytes are those of the file
that the library writes, which for CatBoost has the statistics of every id that scoring needs.
Seconds are of the processor, in training and saving.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, path_of
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.environment import stamp

RECORD = path_of("boosted")
IDENTITY = ("study", "data_fingerprint", "library", "trees", "categories")
EVAL_ROWS = 65_536
SPLITS = ("train", "val", "test")

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Split = tuple[Ids, Floats, Floats]  # ids (rows, F), numbers (rows, N), labels (rows,)
Scores = Callable[[Split], npt.NDArray[np.float64]]


def rows_of(data: DataSet, split: str) -> Split:
    """A split in memory, in file order.

    Raises:
        ValueError: A column has several values in a row.
    """
    ids, numbers, labels = [], [], []
    for batch in data.stream(split, batch_size=EVAL_ROWS):
        lengths, B, F = batch.sparse.lengths(), batch.num_rows, len(data.schema.features)
        if int(lengths.min()) != 1 or int(lengths.max()) != 1:
            raise ValueError(f"{data.path}: bags of other than one id; allowed: one in every row")
        ids.append(batch.sparse.values().view(F, -1).T[:B].numpy())
        numbers.append(batch.dense_BN[:B].numpy())
        labels.append(batch.labels_B[:B].numpy())
    return np.concatenate(ids), np.concatenate(numbers), np.concatenate(labels)


def ranks_of(data: DataSet, ids: Ids, categories: int) -> Ids:
    """Ids as ranks by count, from 0; -1 for unknown ids and those of later ranks."""
    ranks = np.full(ids.shape, -1, np.int64)
    for i, column in enumerate(data.schema.features):
        known, counts = data.counts(column.name)
        order = np.empty(len(known), np.int64)
        order[np.argsort(-counts, kind="stable")] = np.arange(len(known))
        at = np.searchsorted(known, ids[:, i]).clip(max=len(known) - 1)
        found = (known[at] == ids[:, i]) & (order[at] < categories)
        ranks[found, i] = order[at][found]
    return ranks


def lightgbm(data: DataSet, splits: Sequence[Split], args: Any, file: Path) -> tuple[Scores, int]:
    """Train and save a model; how it scores, and its number of trees."""
    import lightgbm as library

    def table(split: Split) -> npt.NDArray[np.float64]:
        return np.hstack([ranks_of(data, split[0], args.categories), split[1]]).astype(np.float64)

    F = len(data.schema.features)
    train, val = (
        library.Dataset(table(s), s[2], categorical_feature=list(range(F)), free_raw_data=True)
        for s in splits[:2]
    )
    val.reference = train
    settings = {"objective": "binary", "num_threads": args.threads, "seed": 0, "verbosity": -1,
                "learning_rate": args.rate, "num_leaves": 63, "deterministic": True}  # fmt: skip
    stop = library.early_stopping(args.patience, verbose=False)
    model = library.train(settings, train, args.trees, valid_sets=[val], callbacks=[stop])
    model.save_model(file)
    return lambda split: np.asarray(model.predict(table(split))), int(model.best_iteration)


def catboost(data: DataSet, splits: Sequence[Split], args: Any, file: Path) -> tuple[Scores, int]:
    """Train and save a model; how it scores, and its number of trees."""
    import catboost as library

    F = len(data.schema.features)

    def pool(split: Split) -> Any:
        features = library.FeaturesData(
            num_feature_data=split[1] if split[1].shape[1] else None,
            cat_feature_data=split[0].astype(str).astype(object).astype(bytes).astype(object),
        )
        return library.Pool(features, split[2])

    model = library.CatBoostClassifier(
        iterations=args.trees, learning_rate=args.rate, random_seed=0, thread_count=args.threads,
        early_stopping_rounds=args.patience, verbose=False, allow_writing_files=False,
        max_ctr_complexity=1 if F > 20 else 2,
    )  # fmt: skip
    model.fit(pool(splits[0]), eval_set=pool(splits[1]))
    model.save_model(str(file))
    return lambda split: model.predict_proba(pool(split))[:, 1], int(model.tree_count_)


LIBRARIES = {"lightgbm": lightgbm, "catboost": catboost}


def measured(data: DataSet, asked: Line, args: Any) -> Line:
    """Train what is asked for on the training rows, and score the other splits."""
    splits = [rows_of(data, name) for name in SPLITS]
    with tempfile.TemporaryDirectory() as folder:
        file, started = Path(folder) / "model", time.process_time()
        scores, trees = LIBRARIES[asked["library"]](data, splits, args, file)
        cpu, num_bytes = time.process_time() - started, file.stat().st_size
    line: Line = {**asked, "trees_kept": trees, "num_bytes": num_bytes, "cpu_seconds": cpu}
    for name, split in zip(SPLITS[1:], splits[1:], strict=True):
        p = scores(split)
        line[f"{name}_auc"] = float(roc_auc_score(split[2], p))
        line[f"{name}_logloss"] = float(log_loss(split[2], p))
    return {**line, "environment": stamp()}


def main() -> None:
    parser = make_parser(__doc__, RECORD)
    parser.add_argument("study", help="name of the data set, as in benchmarks.accuracy.at_bytes")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prepared splits")
    parser.add_argument("--libraries", nargs="*", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument("--trees", type=int, default=2000, help="at most")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate")
    parser.add_argument("--patience", type=int, default=50, help="trees without a better one")
    parser.add_argument("--categories", type=int, default=10_000, help="of a column, for LightGBM")
    args = parser.parse_args()
    set_up(args.threads)
    records = Records(RECORD, IDENTITY, writes=args.record)
    for split, opened in enumerate(map(open_data, args.data)):
        for library in args.libraries:
            asked = {
                "study": args.study,
                "data_fingerprint": opened.fingerprint,
                "library": library,
                "trees": args.trees,
                "categories": args.categories,
                "split": split,
            }
            line = records.find(asked) or records.add(measured(opened, asked, args))
            print(
                f"{opened.path.name} {library:10s} {line['num_bytes']:>12,d} bytes  validation AUC "
                f"{line['val_auc']:.5f}  {line['trees_kept']} trees  {line['cpu_seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
