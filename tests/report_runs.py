"""Run folders made by hand, for the tests of the report."""

import json
from pathlib import Path

import numpy as np

from seo_rec import report
from seo_rec.data.vocabulary import write_vocabulary
from seo_rec.files import write_json
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.schema import Column, Schema

EVIL = "<script>alert(1)</script>"
STAMP = {"git_sha": "abc123", "git_dirty": True, "torch": "2.13.0", "date": "2026-01-02T03:04:05"}
FIT = {"epochs": 3, "batch_size": 64}


# ---- run folders made by hand ------------------------------------------------------------


def make_data(folder: Path, names=("user", "item"), seed=0) -> Schema:
    rng = np.random.default_rng(seed)
    sizes = {name: 40 * (i + 1) for i, name in enumerate(names)}
    columns = tuple(Column(name, "categorical", size) for name, size in sizes.items())
    rows = {"train": 100, "val": 10, "test": 10}
    rates = dict.fromkeys(rows, 0.5)
    schema = Schema("toy", columns, "label", rows, rates, options={"seed": seed})
    write_json(folder / "schema.json", schema.to_json())
    for i, (name, size) in enumerate(sizes.items()):
        ids = np.sort(rng.choice(10**9, size, replace=False))
        # A hostile name is no file name; its vocabulary is then simply not there.
        if "/" not in name:
            write_vocabulary(folder, name, ids, np.full(size, i + 1))
    return schema


SEARCHED = {"method": "seo", "searched": True}  # what a search signs its policy with


def shared_policy(names=("user", "item"), rows=(16, 16), dim=4, decision=None, **origin) -> Policy:
    tables = tuple(Table(f"chunk{i}", r, dim) for i, r in enumerate(rows))
    features = tuple(
        Feature(name, tuple(Lookup(t.name, "hash", 7 * i + j) for j, t in enumerate(tables)))
        for i, name in enumerate(names)
    )
    origin = origin or {"method": "multi-size"}
    return Policy(tables, features, provenance=origin, decision=decision)


def result(method: str, seed: int, test_auc: float, **changes) -> dict:
    return {
        "data": "toy",
        "data_fingerprint": "f" * 16,
        "method": method,
        "seed": seed,
        "budget": 128,
        "embedding_params": 128,
        "val_auc": test_auc - 0.01,
        "val_logloss": 0.5,
        "test_auc": test_auc,
        "test_logloss": 1 - test_auc,
        "test_normalized_entropy": 0.9,
        "test_calibration": 1.0,
        "epochs": 3,
        "steps": 30,
        "seconds_per_epoch": 1.5,
        "seconds": 5.0,
        "search_seconds": 0.0,
        "policy": "2 tables",
        "command": "seo-rec compare",
        "environment": STAMP,
        **changes,
    }


def make_training(folder: Path, outcome: dict, policy: Policy, data: Path, epochs=3) -> None:
    asked = {"kind": "train", "data": str(data), "model": {"hidden": [8]}}
    write_json(folder / "run.json", {**asked, "fit": {**FIT, "seed": outcome["seed"]}})
    write_json(folder / "result.json", outcome)
    policy.save(folder / "policy.json")
    lines = [{"event": "step", "step": 1, "train_loss": 0.7}]
    lines += [
        {
            "event": "epoch",
            "epoch": e,
            "step": e,
            "train_loss": 0.6 - e / 10,
            "val_auc": 0.6 + e / 9,
        }
        for e in range(epochs)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_search(folder: Path, fingerprint: str, names=("user", "item"), run_off=True) -> None:
    asked = {
        "kind": "search",
        "data": "nowhere",
        "data_fingerprint": fingerprint,
        "method": "seo",
        "budget": 128,
        "settings": {
            "budget_rows": 32,
            "dim": 4,
            "chunk_dim": 2,
            "run_off": {"standard_errors": 1.5} if run_off else None,
        },
        "model": {"hidden": [8]},
        "fit": {**FIT, "seed": 0},
    }
    scores = {"val_auc": 0.6, "gain": 0.0, "standard_error": 0.0, "params": 128, "seconds": 2.0}
    attended = {"chunk_dim": 2, "min_chunks": 1, "apply": "exact"}
    winner = {**scores, "val_auc": 0.65, "gain": 0.05, "standard_error": 0.01, "origin": attended}
    chosen = "seo-2-min1-exact" if run_off else "seo"
    decision = {**SEARCHED, "winner": chosen, "kind": "attention"}
    attention = {
        "features": list(names),
        "attention": [[0.5, 0.25], [0.125, 0.125], *[[0.0, 0.0]] * (len(names) - 2)],
        "val_auc": 0.61,
        "test_auc": 0.6,
        "seconds": 3.0,
        "seconds_per_epoch": 1.0,
    }
    record = {"searches": {"2": attention}}
    if run_off:
        record["run_off"] = {"trivial-2x2": scores, "seo-2-min1-exact": winner}
    found = {
        "method": "seo",
        "winner": chosen,
        "decision": decision,
        "dataset": "toy",
        "val_auc": 0.65,
        "seconds": 12.0,
        "peak_bytes": 1024,
        "params": 128,
        "record": record,
        "environment": STAMP,
        "command": "seo-rec search",
    }
    write_json(folder / "run.json", asked)
    write_json(folder / "search.json", found)
    searched = shared_policy(names, decision=decision, apply="exact")
    searched.save(folder / "policy.json")
    if run_off:
        searched.save(folder / "candidates" / "seo-2-min1-exact.json")


AUCS = {"separate": (0.70, 0.71, 0.69), "multi-size": (0.72, 0.71, 0.73), "seo": (0.74, 0.73, 0.74)}


def make_comparison(folder: Path, data: Path, names=("user", "item"), aucs=AUCS) -> Path:
    fingerprint = make_data(data, names).fingerprint
    lines = []
    for method, values in aucs.items():
        for seed, auc in enumerate(values):
            outcome = result(method, seed, auc, data_fingerprint=fingerprint)
            decision = {"method": method, "winner": method, "searched": False}
            if method == "seo":
                decision = {**SEARCHED, "winner": "seo-2-min1-exact"}
            run = folder / "runs" / f"{method}-seed{seed}"
            policy = shared_policy(names, decision=decision)
            make_training(run, outcome, policy, data, epochs=3 + seed)
            lines.append(json.dumps(outcome) + "\n")
    make_search(folder / "searches" / "seo-seed0", fingerprint, names)
    (folder / "results.jsonl").write_text("".join(lines))
    return folder


def page_of(runs, tmp_path) -> str:
    report.build(runs, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()
