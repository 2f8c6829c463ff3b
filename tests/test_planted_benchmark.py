"""The benchmark of the default search on its own data: its settings, and its table."""

from __future__ import annotations

from pathlib import Path

from benchmarks.accuracy import planted
from benchmarks.pages import planted as page
from seo_rec.cli.jobs import _suited


def test_the_settings_are_those_of_the_component() -> None:
    words = _suited([], search=True)
    given = dict(zip(words[::2], words[1::2], strict=True))
    fit = planted.training_of(3).fit
    assert float(given["--l2"]) == fit.row_l2 and float(given["--lr"]) == fit.row_lr == fit.dense_lr
    assert (int(given["--epochs"]), int(given["--batch-size"])) == (fit.epochs, fit.batch_size)
    assert int(given["--params"]) == planted.PLANTED_PARAMS and fit.seed == 3


def test_what_a_line_is_of(tmp_path: Path) -> None:
    """Every seed has its own data, and an answer also the rule by which it was found."""
    asked = [
        planted.asked_of(planted.planted_data(300, seed, tmp_path), 300, method, seed)
        for seed in (0, 1)
        for method in (planted.ANSWER, "multi-size")
    ]
    assert len({a["data_fingerprint"] for a in asked}) == 2
    assert [a["rule"] is None for a in asked] == [False, True, False, True]
    assert all(set(planted.IDENTITY) == set(a) for a in asked)


def test_the_table_compares_with_the_best_plain_policy() -> None:
    """Best by validation rows; differences are paired by seed."""
    assert "not run" in page.region([])[0]
    auc = {"seo": (0.86, 0.84), "multi-size": (0.84, 0.835), "separate": (0.85, 0.81)}
    lines = [
        {"method": m, "seed": s, "val_auc": v + 0.001 * s, "test_auc": t + 0.002 * s * (m == "seo")}
        | ({"winner": "seo-8", "trainings": 3.5} if m == "seo" else {})
        for m, (v, t) in auc.items()
        for s in (0, 1)
    ]
    told, _, *rows = page.region(lines)
    assert "`seo-8` 2" in told and "3.5 times" in told and "is `separate`" in told
    (row,) = (r for r in rows if r.startswith("| separate"))
    # 0.030 and 0.032: the mean, and their standard error
    assert "+0.03100 ± 0.00100" in row
    assert any("0.84100 ± 0.00141" in r for r in rows)  # test AUC of the answer
