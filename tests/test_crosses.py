"""Crosses as columns of the data: what is made of them equals columns that are written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from seo_rec import recipes
from seo_rec.data.crosses import (
    Cross,
    CrossedStream,
    check_crosses,
    read_crosses,
    reading_columns,
    with_crosses,
)
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.vocabulary import write_vocabulary
from seo_rec.model import ModelSettings
from seo_rec.policy import MISSING_ID, Policy
from seo_rec.schema import Column, DataError, write_schema
from seo_rec.search import find, proposals
from seo_rec.train import FitSettings, Training, eval_stream, evaluate, fit_policy
from spawn import run_ranks
from spec import cross_id

PAIR, TRIPLE = Cross(("strong_1", "noise_0")), Cross(("weak_0", "strong_0", "weak_1"))
CROSSES = (PAIR, TRIPLE)
TRAINING = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=2, batch_size=128))
SEARCHES = ("multi-size", "frequent", "separate", "qr", "mixed-dimension")


@pytest.fixture(scope="module")
def by_hand(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """``tiny`` with the crosses written into its files as columns, by the written rule."""
    out = tmp_path_factory.mktemp("by-hand") / "data"
    schema, columns = open_data(tiny).schema, []
    counted: dict[str, list[int]] = {c.name: [] for c in CROSSES}
    for split in ("train", "val", "test"):
        (out / split).mkdir(parents=True)
        for path in sorted((tiny / split).glob("*.parquet")):
            table = pq.read_table(path)
            for cross in CROSSES:
                rows = zip(*(table[c].to_pylist() for c in cross.columns), strict=True)
                ids = [None if None in row else cross_id(row) for row in rows]
                table = table.append_column(cross.name, pa.array(ids, pa.int64()))
                counted[cross.name] += [i for i in ids if i is not None and split == "train"]
            pq.write_table(table, out / split / path.name)
    (out / "vocabulary").mkdir()
    for path in (tiny / "vocabulary").iterdir():
        (out / "vocabulary" / path.name).write_bytes(path.read_bytes())
    for name, values in counted.items():
        ids, counts = np.unique(np.array(values, np.int64), return_counts=True)
        write_vocabulary(out, name, ids, counts)
        rate = len(values) / schema.num_rows["train"]
        columns.append(Column(name, "categorical", len(ids), rate))
    write_schema(out, replace(schema, columns=(*schema.columns, *columns), files={}))
    return open_data(out)


@pytest.fixture(scope="module")
def crossed(tiny_data: DataSet) -> DataSet:
    return with_crosses(tiny_data, CROSSES)


def test_schema_and_counts_are_as_written_by_hand(crossed: DataSet, by_hand: DataSet) -> None:
    assert crossed.schema.columns == by_hand.schema.columns
    for column in by_hand.schema.features:
        for got, wanted in zip(
            crossed.counts(column.name), by_hand.counts(column.name), strict=True
        ):
            assert got.dtype == wanted.dtype and got.tolist() == wanted.tolist()
    assert 0 < crossed.schema.columns[-1].lookups_per_row < 1  # some rows lack a column


@pytest.mark.parametrize("columns", [None, [PAIR.name], ["noise_1", TRIPLE.name, "bag_0"]])
def test_batches_are_as_written_by_hand(crossed, by_hand, columns) -> None:
    for split in ("train", "test"):
        pairs = zip(
            crossed.stream(split, batch_size=100, columns=columns),
            by_hand.stream(split, batch_size=100, columns=columns),
            strict=True,
        )
        for got, wanted in pairs:
            assert got.sparse.keys() == wanted.sparse.keys()
            for name in ("values", "lengths"):
                ours, theirs = getattr(got.sparse, name)(), getattr(wanted.sparse, name)()
                assert ours.tolist() == theirs.tolist()
            assert got.labels_B.tolist() == wanted.labels_B.tolist()


@pytest.mark.parametrize("method", SEARCHES)
def test_a_policy_is_as_for_columns_written_by_hand(method, crossed, by_hand) -> None:
    """The same tables, lookups and vocabularies; only where the ids come from differs."""
    made = recipes.method_policy(method, crossed, 6_000, 8)
    wanted = recipes.method_policy(method, by_hand, 6_000, 8)
    columns = {c.name: c.columns for c in CROSSES}
    assert {f.name: f.columns for f in made.features if f.is_cross} == columns
    plain = replace(
        made,
        features=tuple(replace(f, columns=(f.name,)) for f in made.features),
        provenance=wanted.provenance,
    )
    assert plain == wanted
    assert made.provenance["crosses"] == [c.name for c in CROSSES]
    assert made.provenance["data_fingerprint"] == crossed.whole.fingerprint


@pytest.mark.parametrize("method", ["multi-size", "frequent"])
def test_training_is_as_with_columns_written_by_hand(method, tiny_data, crossed, by_hand) -> None:
    """Whether crosses are made in the model, in the stream, or by hand: the same to the bit."""
    policy = recipes.method_policy(method, crossed, 3_000, 8)
    named = replace(policy, features=tuple(replace(f, columns=(f.name,)) for f in policy.features))
    found = []
    for data, of in ((tiny_data, policy), (crossed, named), (by_hand, named)):
        trained = fit_policy(data, of, TRAINING)
        metrics, logits, _ = evaluate(trained.model, eval_stream(data, "test", of.columns))
        found.append((trained.result.val.auc, metrics.auc, logits.tolist()))
    assert found[0] == found[1] == found[2]


def test_sharded_is_unsharded(tiny_data: DataSet, crossed: DataSet) -> None:
    policy = recipes.method_policy("frequent", crossed, 3_000, 8)

    def logits() -> list[float]:
        trained = fit_policy(tiny_data, policy, TRAINING)
        _, z, _ = evaluate(trained.model, eval_stream(tiny_data, "test", policy.columns))
        return z.tolist()

    alone = logits()
    for of_rank in run_ranks(logits, 2):
        assert of_rank == pytest.approx(alone, abs=1e-5)


def test_no_crosses_change_nothing(tiny_data: DataSet) -> None:
    policy = recipes.method_policy("multi-size", tiny_data, 3_000, 8)
    assert reading_columns(policy, tiny_data) is policy
    assert "crosses" not in policy.provenance
    assert with_crosses(tiny_data, ()).schema == tiny_data.schema


def test_columns_are_counted_once_for_all_sets_of_crosses(tiny_data: DataSet) -> None:
    """Digests of large vocabularies take time and memory."""
    crossed = with_crosses(tiny_data, CROSSES)
    for bits in (64, 32):
        ids, _ = crossed.only((PAIR,)).counts("noise_0", bits)
        assert ids is tiny_data.counts("noise_0", bits)[0]
        cross = crossed.only((PAIR,)).counts(PAIR.name, bits)
        assert len(cross[0]) > 3 and cross[1].sum() == crossed.counts(PAIR.name)[1].sum()
        assert (cross[0].max() < 2**32) == (bits == 32)


def test_searches_find_policies_of_columns_and_crosses(tiny_data, tmp_path) -> None:
    """Also a search that trains, and drops features: its policy fits the data without crosses."""
    crossed = with_crosses(tiny_data, (PAIR,))
    entry = find("seo-exact")
    settings = entry.settings_at(160 * 8, 8, TRAINING, {"chunk_dim": 4, "min_chunks": 0})
    found = recipes.search("seo-exact", crossed, tmp_path / "search", settings, TRAINING)
    for policy in (found.policy, Policy.load(tmp_path / "search" / "policy.json")):
        names = {c.name for c in tiny_data.schema.features}
        assert {*policy.columns, *policy.dropped} == names
        assert {f.columns for f in policy.features if f.is_cross} <= {PAIR.columns}
    recipes.train(tiny_data, found.policy, tmp_path / "run", TRAINING)


def test_crosses_count_for_the_cache(tiny_data: DataSet, monkeypatch) -> None:
    """Decoded rows are kept if ids and lengths of columns and crosses are within the limit."""
    sizes = []
    for crosses in ((), CROSSES):
        low, high = 0, 1 << 20
        while low < high:  # the least limit with which rows are kept
            middle = (low + high) // 2
            monkeypatch.setattr("seo_rec.data.stream.CACHE_LIMIT_BYTES", middle)
            kept = CrossedStream(tiny_data, crosses, batch_size=100).cached
            low, high = (low, middle) if kept else (middle + 1, high)
        sizes.append(low)
    assert sizes[1] - sizes[0] == 2 * 12 * tiny_data.schema.num_rows["train"]


def test_missing_parts(tmp_path: Path, tiny_data: DataSet) -> None:
    """An empty bag makes an empty bag, and the id of a missing value makes that id."""
    stream = CrossedStream(tiny_data, CROSSES, batch_size=2_000)
    (batch,) = stream
    kjt = batch.sparse
    for cross in CROSSES:
        parts = [kjt[c].to_dense() for c in cross.columns]
        wanted = [
            [] if 0 in map(len, bags) else [cross_id([int(b[0]) for b in bags])]
            for bags in zip(*parts, strict=True)
        ]
        assert [b.tolist() for b in kjt[cross.name].to_dense()] == wanted
        assert [] in wanted
    assert cross_id([MISSING_ID, 5]) == MISSING_ID


@pytest.mark.parametrize(
    "text, said",
    [
        ("strong_0", r"'strong_0' has 1 column; allowed: 2 to 8 with \* between"),
        ("strong_0*nothing", "'nothing' is no column of the data; allowed: columns with one id"),
        ("strong_0*bag_0", "'bag_0' is a multivalent column"),
        ("strong_0*number_0", "'number_0' is a numeric column"),
        ("strong_0*weak_0*strong_0", "names a column twice"),
        ("strong_0*weak_0,weak_0*strong_0", "are of the same columns; leave one out"),
        ("strong_0*weak_0,strong_0*weak_0", "are of the same columns; leave one out"),
        ("strong_0*", "'' is no column of the data"),
        ("0", "--crosses 0; allowed: 1 or more, all, or names"),
    ],
)
def test_what_is_no_cross_is_refused(text, said, tiny_data) -> None:
    with pytest.raises(DataError, match=said):
        read_crosses(text, tiny_data.schema)


def test_a_name_that_is_taken_is_refused(by_hand: DataSet) -> None:
    with pytest.raises(DataError, match="has the name of a column of the data"):
        check_crosses((PAIR,), by_hand.schema)


def test_texts_of_the_option(tiny_data: DataSet) -> None:
    schema = tiny_data.schema
    assert read_crosses(" 12 ", schema) == 12
    assert read_crosses("all", schema) == "all"
    text = f"{PAIR.name} , {TRIPLE.name}"
    assert read_crosses(text, schema) == CROSSES


def test_the_command_trains_crosses(seo_rec, tiny, tmp_path, caplog) -> None:
    common = ["--params", 3000, "--dim", 8, "--epochs", 1, "--hidden", "8", "--crosses", PAIR.name]
    done = seo_rec("train", tiny, "--out", tmp_path / "run", "--method", "multi-size", *common)
    assert done.code == 0, done.err
    policy = Policy.load(tmp_path / "run" / "policy.json")
    assert policy.features[-1].columns == PAIR.columns and policy.num_params == 3000
    again = ["--config", tmp_path / "run" / "settings.json", "--out", tmp_path / "again"]
    done = seo_rec("train", tiny, *again)
    assert Policy.load(tmp_path / "again" / "policy.json") == policy
    done = seo_rec("train", tiny, "--out", tmp_path / "n", "--method", "frequent", *common[:-1], 1)
    proposed = Policy.load(tmp_path / "n" / "policy.json")
    assert done.code == 0 and sum(f.is_cross for f in proposed.features) <= 1
    assert "of 15 pairs" in caplog.text
    policy.save(tmp_path / "policy.json")
    done = seo_rec(
        "train", tiny, "--out", tmp_path / "c", "--policy", tmp_path / "policy.json", *common[-2:]
    )
    assert done.code == 2 and "--crosses" in done.err


def test_triples_are_proposed_on_request(seo_rec, tiny, tmp_path, caplog, monkeypatch) -> None:
    """The order arrives, is kept in the settings, and the triple is a feature in the budget."""
    orders = list[int]()

    def greedy(pairs, number, order):
        orders.append(order)
        return [proposals.Proposal(TRIPLE, 0.01, 0.001, 9)][:number]

    monkeypatch.setattr(proposals, "greedy", greedy)
    common = ["--params", 3000, "--dim", 8, "--epochs", 1, "--hidden", "8"]
    asked = [*common, "--method", "multi-size", "--crosses", 4]
    done = seo_rec("train", tiny, "--out", tmp_path / "run", *asked, "--cross-order", 3)
    assert done.code == 0, done.err
    policy = Policy.load(tmp_path / "run" / "policy.json")
    assert policy.features[-1].columns == TRIPLE.columns and policy.num_params <= 3000
    assert "1 of 15 pairs and of triples with a pair before them" in caplog.text
    again = ["--config", tmp_path / "run" / "settings.json", "--out", tmp_path / "again"]
    assert seo_rec("train", tiny, *again).code == 0
    assert Policy.load(tmp_path / "again" / "policy.json") == policy
    named = [*again[:2], "--crosses", PAIR.name, "--out", tmp_path / "named"]
    done = seo_rec("train", tiny, *named)  # the order of the file is of other crosses
    assert done.code == 0, done.err
    policy = Policy.load(tmp_path / "named" / "policy.json")
    assert policy.features[-1].columns == PAIR.columns
    kept = json.loads((tmp_path / "named" / "settings.json").read_text())
    assert kept["options"]["cross_order"] == 2
    done = seo_rec("train", tiny, *named[:-1], tmp_path / "x", "--cross-order", 3)
    assert done.code == 2 and "allowed: a number of crosses" in flat(done.err)
    done = seo_rec("train", tiny, "--out", tmp_path / "pairs", *asked)
    assert orders == [3, 3, 2]
    search = ["search", tiny, "--method", "multi-size", *common]
    done = seo_rec(*search, "--crosses", 1, "--cross-order", 3, "--out", tmp_path / "s")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "s" / "search.json").read_text())["record"]["crosses"]
    assert record["proposed"] == [TRIPLE.name] and orders[-1] == 3


@pytest.mark.parametrize("text", ["", "none", "all", PAIR.name])
def test_an_order_without_a_number_is_refused(seo_rec, tiny, tmp_path, text) -> None:
    asked = ["train", tiny, "--method", "multi-size", "--out", tmp_path / "run"]
    done = seo_rec(*asked, *(["--crosses", text] if text else []), "--cross-order", 3)
    assert done.code == 2 and "allowed: a number of crosses, as --crosses 8" in flat(done.err)
    done = seo_rec(*asked, "--crosses", 8, "--cross-order", 4)
    assert done.code == 2 and "less than or equal to 3" in flat(done.err)
    assert not (tmp_path / "run").exists()


def flat(text: str) -> str:
    """Without the frame and the line breaks of an error in a terminal."""
    return " ".join(text.replace("│", " ").split())


def test_none_is_no_cross_for_every_command(seo_rec, tiny, tmp_path) -> None:
    common = ("--method", "multi-size", "--params", 400, "--epochs", 1)
    done = seo_rec("train", tiny, *common, "--crosses", "none", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    plain = seo_rec("train", tiny, *common, "--out", tmp_path / "plain")
    assert plain.code == 0, plain.err
    policies = [Policy.load(tmp_path / name / "policy.json") for name in ("run", "plain")]
    assert policies[0] == policies[1]


def test_all_methods_of_a_comparison_have_the_crosses(seo_rec, tiny, tmp_path) -> None:
    """Those with a search too; a frontier hands them to its jobs by name."""
    methods = ("multi-size", "frequent", "seo-exact")
    more = ["--epochs", 1, "--hidden", "8", "--dim", 8, "--seeds", 1, "--crosses", PAIR.name]
    out, budget = tmp_path / "out", ["--params", 3200, "--set", "seo.chunk_dim=4"]
    asked = ["compare", tiny, "--out", out, "--methods", ",".join(methods), *budget, *more]
    done = seo_rec(*asked)
    assert done.code == 0, done.err
    assert json.loads((out / "run.json").read_text())["crosses"] == [PAIR.name]
    for method in methods:
        policy = Policy.load(next(out.glob(f"**/{method}-seed0/policy.json")))
        assert PAIR.columns in [f.columns for f in policy.features]
        assert policy.num_params <= 3200
    done = seo_rec(*asked[:-1], TRIPLE.name)
    assert done.code == 2 and "differs in crosses" in done.err
    budgets = ["--budgets", "1600,3200", "--methods", "multi-size", "--scheduler", "local_cwd"]
    done = seo_rec("frontier", tiny, "--out", tmp_path / "f", *budgets, *more)
    lines = [line for line in done.out.splitlines() if line.startswith("torchx")]
    assert len(lines) == 2, done.err
    assert all(line.count("--crosses") == 1 and PAIR.name in line for line in lines)


def test_crosses_hash_alike_in_the_stream_and_in_the_model() -> None:
    from seo_rec.embed.cross import cross_ids as in_torch
    from seo_rec.policy.addresses import cross_ids

    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 2**63 - 1, 500) for _ in range(3)]
    parts[1][:5] = MISSING_ID
    assert cross_ids(parts).tolist() == in_torch([torch.from_numpy(p) for p in parts]).tolist()


@pytest.mark.slow
def test_a_model_with_crosses_is_served(seo_rec, tiny, tiny_data, crossed, tmp_path) -> None:
    """NumPy and ONNX Runtime make the crosses themselves; the AUC is the one of the model."""
    policy = recipes.method_policy("frequent", crossed, 3_000, 8)
    run = recipes.train(tiny_data, policy, tmp_path / "run", TRAINING)
    done = seo_rec("export", tmp_path / "run", "--out", tmp_path / "package")
    assert done.code == 0, done.err
    labels = tiny_data.labels("test")
    for engine in ("numpy", "onnxruntime"):
        out = tmp_path / f"{engine}.parquet"
        arguments = ["predict", tmp_path / "package", "--raw", tiny, "--out", out]
        done = seo_rec(*arguments, "--engine", engine)
        assert done.code == 0, done.err
        scores = pq.read_table(out)["score"].to_numpy()
        assert roc_auc_score(labels, scores) == pytest.approx(run.test_auc, abs=1e-6)
