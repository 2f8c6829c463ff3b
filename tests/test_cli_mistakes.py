"""Mistakes on the command line: one message each, and nothing is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from small_commands import QUICK, RAW, Command

NO_DATA = "no-such-folder"
OWN = ["train", "DATA", "--out", "o", "--method", "separate"]
OWN += ["--backbone", "dcn-v2", "--interaction"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["train", NO_DATA, "--out", "o", "--method", "monolithic"], "no-such-folder"),
        (["search", NO_DATA, "--out", "o"], "no-such-folder"),
        (["compare", NO_DATA, "--out", "o"], "no-such-folder"),
        (["eval", "no-run", "DATA"], "no-run: no such folder; name the folder of a finished trai"),
        (["export", "no-run", "--out", "o"], "no-run: no such folder; name the folder of a fin"),
        (["report", "no-run", "--out", "o.html"], "no-run"),
        (["train", "DATA", "--out", "o"], "either --policy FILE or --method NAME"),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--policy", "p.json"],
            "either --policy FILE or --method NAME",
        ),
        (["train", "DATA", "--out", "o", "--method", "magic"], "method 'magic'; allowed: separate"),
        (["train", "DATA", "--out", "o", "--method", "multisize"], "do you mean 'multi-size'? all"),
        (["train", "DATA", "--out", "o", "--method", "seo"], "method 'seo' needs a search; run"),
        (["train", "DATA", "--out", "o", "--policy", "p.json"], "p.json: no such policy file"),
        (["train", "DATA", "--out", "o", "--policy", "bad.json"], "bad.json:1:2: not valid JSON"),
        (["train", "DATA", "--out", "o", "--method", "separate", "--params", "3"], "smallest feas"),
        (["train", "DATA", "--out", "o", "--method", "separate", "--epochs", "0"], "epochs is 0"),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--epochs", "x"],
            "Invalid value for '--epochs'",
        ),
        (["train", "DATA", "--out", "o", "--method", "separate", "--lr", "nan"], "lr is nan"),
        (["train", "DATA", "--out", "o", "--method", "separate", "--seed", "-1"], "seed is -1"),
        (["train", "DATA", "--out", "o", "--method", "separate", "--threads", "-1"], "--threads"),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--hidden", "9,x"],
            "--hidden=9,x; allowed: whole",
        ),
        (["train", "DATA", "--out", "o", "--method", "separate", "--hidden", "0"], "1 or more"),
        (["train", "DATA", "--out", "o", "--method", "separate", "--dropout", "1"], "dropout 1.0"),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--backbone", "gpt"],
            "backbone 'gpt'; allowed: mlp, dcn-v2",
        ),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--interaction", "layers=3"],
            "--interaction 'layers=3' with --backbone mlp; allowed with: dcn-v2, dcn, dlrm",
        ),
        *(
            (
                [*OWN, text],
                says,
            )
            for text, says in {
                "heads=3": "'heads=3'; allowed, each once: layers=a whole number, rank=a whole",
                "rank=1,rank=2": "'rank=2'; allowed, each once",
                "layers=two": "layers of --interaction=two; allowed: a whole number",
                "layers=0": "layers 0; allowed: 1 or more",
            }.items()
        ),
        (["train", "DATA", "--out", "o", "--method", "separate", "--optimizer", "lamb"], "lamb"),
        (["train", "DATA", "--out", "o", "--method", "multi-size-3"], "not a multiple of lookups"),
        (
            ["train", "DATA", "--out", "o", "--method", "multi-size", "--set", "chunk_dim=0"],
            "chunk_dim 0",
        ),
        (["train", "DATA", "--out", "o", "--method", "multi-size", "--dim", "0"], "dim"),
        (["compare", "DATA", "--out", "o", "--first-seed", "-1"], "first_seed is -1"),
        (["train", "DATA", "--out", "o", "--speed", "9"], "No such option: --speed"),
        (["train", "DATA", "--method", "separate"], "Missing option '--out'"),
        (["search", "DATA", "--out", "o", "--dim", "12"], "multiples of chunk_dim 8"),
        (["search", "DATA", "--out", "o", "--set", "search_split=val"], "search_split is 'val'"),
        (["search", "DATA", "--out", "o", "--set", "temperature=0"], "temperature"),
        (["search", "DATA", "--out", "o", "--set", "total_chunks=5"], "run_off=none"),
        (
            ["search", "DATA", "--out", "o", *RAW, "--set", "total_chunks=500"],
            "total_chunks 500",
        ),
        (["search", "DATA", "--out", "o", "--set", "run_off.epochs=0"], "epochs 0"),
        (["apply", "p.json", "--strategy", "exact", "--out", "a.json"], "p.json: no such policy"),
        (["apply", "POLICY", "--strategy", "fair", "--out", "a.json"], "allowed: exact, round-r"),
        (["apply", "POLICY", "--strategy", "exact", "--out", "a.json", "--params", "5"], "budget"),
        (["apply", "POLICY", "--strategy", "exact", "--out", "bad.json"], "bad.json exists"),
        (["eval", "RUN", "DATA", "--split", "dev"], "no split 'dev'"),
        (["compare", "DATA", "--out", "o", "--methods", "separate,magic"], "'magic'; allowed"),
        (["compare", "DATA", "--out", "o", "--methods", ","], "0 methods, 5 seeds"),
        (
            ["compare", "DATA", "--out", "o", "--methods", "pq,separate,pq"],
            "methods name pq more than once; allowed: each once",
        ),
        (
            ["compare", "DATA", "--out", "o", "--methods", "no-search", "--exact-below", "9"],
            "exact_below or same_hash with method 'no-search', which has no hashed rows for them",
        ),
        (
            ["train", "DATA", "--out", "o", "--method", "collisionless", "--params", "9"],
            "--params with --method collisionless would be ignored; allowed with methods that have",
        ),
        (
            ["search", "DATA", "--out", "o", "--params", "16", "--set", "adjust_hash_buckets=true"],
            "the smallest feasible budget is",
        ),
        (
            ["search", "DATA", "--out", "o", "--method", "multi-size-2", "--params", "8"],
            "the smallest feasible budget is 16",
        ),
        (["compare", "DATA", "--out", "o", "--params", "100"], "a multiple of --dim 16"),
        (["compare", "DATA", "--out", "o", "--seeds", "0"], "0 seeds, 1 data sets"),
        (
            ["search", "DATA", "--out", "o", "--set", "warmup_epochs=2"],
            "warmup_epochs 2 with search_split 'train' would be ignored; allowed with",
        ),
        (
            ["compare", "DATA", "--out", "o", "--set", "seo.warmup_epochs=2"],
            "warmup_epochs 2 with search_split 'train' would be ignored; allowed with",
        ),
        (
            ["search", "DATA", "--out", "o", *RAW, "--set", "run_off.epochs=2"],
            "--set run_off=none with --set run_off.epochs; give one of them",
        ),
        (
            ["search", "DATA", "--out", "o", "--set", "chunks=4"],
            "--set 'chunks=4' of seo; allowed, with defaults: chunk_dim=8, search_dim=32",
        ),
        (
            ["search", "DATA", "--out", "o", "--set", "run_off=8"],
            "--set run_off=8; allowed: none",
        ),
        (
            ["search", "DATA", "--out", "o", "--set", "budget_rows=8"],
            "--set 'budget_rows=8' of seo: --params sets it",
        ),
        (
            ["search", "DATA", "--out", "o", "--set", "chunk_dim=8", "--set", "chunk_dim=4"],
            "chunk_dim is already given; give it once",
        ),
        (
            ["search", "DATA", "--out", "o", "--method", "dimgrow", "--set", "fill=yes"],
            "--set fill=yes; allowed: true or false",
        ),
        (
            ["compare", "DATA", "--out", "o", "--set", "chunk_dim=4"],
            "--set 'chunk_dim=4'; allowed: METHOD.name=value with METHOD one of separate, ",
        ),
        (
            ["compare", "DATA", "--out", "o", "--set", "dimgrow.beta=4"],
            "--set 'beta=4' of dimgrow; allowed, with defaults: max_dim=16",
        ),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--set", "chunk_dim=4"],
            "chunk_dim 4 of separate; allowed: 8, which cannot be changed in this method",
        ),
        (
            ["train", "DATA", "--out", "o", "--policy", "p.json", "--dim", "8", "--params", "9"],
            "--dim, --params with --policy would be ignored; allowed with --method",
        ),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--seed", "1e20"],
            "Invalid value for '--seed': Input should be a valid integer, got '1e20'.",
        ),
        (
            ["prepare", "synthetic", "--out", "o", "--noise", "nan"],
            "Invalid value for '--noise': Input should be a valid integer, got 'nan'.",
        ),
        (["explain"], "No such command 'explain'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_gives_one_message_and_status_2(
    monkeypatch: pytest.MonkeyPatch,
    seo_rec: Command,
    chain: Path,
    tiny: Path,
    tmp_path: Path,
    arguments: list[str],
    says: str,
) -> None:
    """It names what was wrong, prints nothing else, leaves no traceback and no folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "bad.json").write_text("{")
    places = {"DATA": tiny, "POLICY": chain / "s/policy.json", "RUN": chain / "t"}
    done = seo_rec(*(places.get(a, a) for a in arguments))
    assert done.code == 2, done.err
    message = re.sub(r"[\s│]+", " ", done.err)
    assert says in message
    assert "Traceback" not in done.err and done.out == ""
    assert done.err.count("error: ") + done.err.count("─ Error ─") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json"]


def test_folders_are_never_overwritten(
    seo_rec: Command, chain: Path, tiny: Path, tmp_path: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in chain.rglob("*")}
    train = ["train", tiny, "--policy", chain / "a.json", "--out", chain / "t", *QUICK]
    search = ["search", tiny, "--out", chain / "s", "--params", "1600", *RAW, *QUICK]
    for arguments, says in (
        (train, "already holds this run; give --resume"),
        ([*train, "--seed", "5"], "holds another run (it differs in fit.seed)"),
        ([*train, "--seed", "5", "--resume"], "holds another run (it differs in fit.seed)"),
        (search, "already holds this run"),
        ([*search, "--set", "logit_lr=1"], "differs in settings.logit_lr"),
        (["compare", tiny, "--out", chain, *QUICK], "is not a run folder"),
    ):
        done = seo_rec(*arguments)
        assert done.code == 2 and says in done.err, done.err
    assert {p: p.stat().st_mtime_ns for p in chain.rglob("*")} == before
    assert seo_rec(*train, "--resume").code == 0


def test_a_bug_is_not_called_a_mistake(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    """An error of ours keeps its traceback."""
    from seo_rec import recipes

    def broken(*_: Any, **__: Any) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(recipes, "train", broken)
    with pytest.raises(AssertionError, match="ours"):
        seo_rec("train", tiny, "--out", tmp_path / "o", "--method", "separate")
