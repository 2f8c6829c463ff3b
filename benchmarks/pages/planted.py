"""The default search on its own data, as ``benchmarks.accuracy.planted`` recorded it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.accuracy.planted import ANSWER, PLAIN, RECORD
from benchmarks.pages.cells import by_seed, mean, minus, seeds_in_words, with_deviation
from benchmarks.pages.markdown import Column, table
from benchmarks.record import Line, read
from seo_rec.recipes.crossing import AUTO


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """A table of all methods, and how the answer compares with the best plain one.

    Args:
        lines: default: the record.
    """
    lines = read(RECORD) if lines is None else lines
    if any(line.get("crosses") == AUTO for line in lines):  # earlier answers had no crosses
        lines = [x for x in lines if x["method"] != ANSWER or x.get("crosses") == AUTO]
    runs = {m: by_seed(x for x in lines if x["method"] == m) for m in (ANSWER, *PLAIN)}
    runs = {method: found for method, found in runs.items() if found}
    if ANSWER not in runs:
        return ["`python -m benchmarks.accuracy.planted`: not run.", ""]
    plain = [m for m in runs if m != ANSWER]
    most = max(len(runs[m]) for m in plain)  # every seed has other data
    best = max((m for m in plain if len(runs[m]) == most), key=lambda m: mean(runs[m], "val_auc"))
    answers = Counter(line["winner"] for line in runs[ANSWER].values())
    told = ", ".join(f"`{name}` {count}" for name, count in answers.most_common())
    columns = [
        Column("policy", lambda m: "the answer of the search" if m == ANSWER else m),
        Column("validation AUC", lambda m: with_deviation(runs[m], "val_auc")),
        Column("test AUC", lambda m: with_deviation(runs[m], "test_auc")),
        Column(
            "the answer − it, test AUC",
            lambda m: None if m == ANSWER else minus(runs[ANSWER], runs[m]),
        ),
    ]
    cost = mean(runs[ANSWER], "trainings")
    return [
        f"{seeds_in_words(runs[ANSWER])}, each with data of its own: mean and standard deviation, "
        "and differences paired by seed with their standard error. Answers by seed: "
        f"{told}. The search read {cost:.1f} times the rows of one training. The best plain policy "
        f"on validation rows is `{best}`.",
        "",
        *table(columns, runs),
    ]
