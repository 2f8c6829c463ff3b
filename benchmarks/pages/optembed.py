"""What ``benchmarks.accuracy.optembed`` recorded: OptEmbed's Tables 3 and 4 on our data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks.accuracy.optembed import (
    BACKBONES,
    OF_SEARCH,
    PLAN,
    PLAN_SEEDS,
    RECORD,
    STARTS,
    VARIANTS,
    WIDTH,
)
from benchmarks.pages.cells import in_words, mean, with_deviation
from benchmarks.pages.markdown import Column, table
from benchmarks.record import Line, read, recorded_fit
from seo_rec.report.comparison import paired_difference
from seo_rec.report.formats import difference, percent
from seo_rec.search.optembed import OptEmbedSettings
from seo_rec.train import FitSettings

WORDS = {"scratch": "new weights", "initial": "the supernet's initial weights"}
VARIED = ("variant", "alpha", "threshold_lr", "generations")


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """Tables for all settings of each data set, and how much of the plan they hold.

    Args:
        lines: default: the record.
    """
    lines = read(RECORD) if lines is None else lines
    out: list[str] = []
    for training in dict.fromkeys(training_of(x["what"]) for x in lines):
        alike = [x for x in lines if training_of(x["what"]) == training]
        originals = [x for x in alike if x["what"]["variant"] == "original"]
        searched: dict[str, list[Line]] = {}
        for line in alike:
            if line["what"]["variant"] != "original":
                searched.setdefault(search_of(line["what"]), []).append(line)
        for found in searched.values() or [[]]:
            out += tables([*originals, *found])
    return out or [f"Nothing is recorded yet; the plan has {len(PLAN) * PLAN_SEEDS} runs."]


def training_of(what: Line) -> str:
    """Data set and training settings, which an original shares with several searches."""
    fit = {k: v for k, v in what["fit"].items() if k != "seed"}
    model = {k: v for k, v in what["model"].items() if k not in ("backbone", "interaction")}
    data = [what["dataset"], what["data"]]
    return json.dumps({"data": data, "fit": fit, "model": model}, sort_keys=True)


def search_of(what: Line) -> str:
    """Settings of the search that all variants of one table share."""
    rest = {k: v for k, v in what["set"].items() if k not in VARIED}
    return json.dumps({**{name: what[name] for name in OF_SEARCH}, "set": rest}, sort_keys=True)


def title(runs: Sequence[Line]) -> str:
    """The data set, and the settings of these runs."""
    what = runs[-1]  # a search, if there is one
    fit = what["fit"]
    words = [what["dataset"], f"fingerprint `{what['data']}`"]
    words += [f"rating rule `{what['rating_rule']}`"] if what["rating_rule"] else []
    words += [f"at most {fit['epochs']} epochs", f"batch {fit['batch_size']:,}"]
    words += [f"learning rate {fit['row_lr']:g}", f"L2 {fit['row_l2']:g}"]
    named = ("seed", "epochs", "batch_size", "row_lr", "dense_lr", "row_l2")
    usual = {**recorded_fit(FitSettings()), **{k: fit[k] for k in named}}
    words += [f"{k} {v}" for k, v in fit.items() if v != usual.get(k)]
    if what["variant"] == "original":
        return ", ".join([*words, "no search"])
    words += [f"a supernet of at most {what['search_epochs']} epochs"]
    words += [f"alpha {what['alpha']:g}", f"thresholds' learning rate {what['threshold_lr']:g}"]
    words += [f"{what['generations']} generations", f"trained again from {WORDS[what['start']]}"]
    default = asdict(OptEmbedSettings(max_dim=WIDTH, weights=STARTS[what["start"]]))
    words += [f"{k} {v}" for k, v in what["set"].items() if k not in VARIED and v != default.get(k)]
    return ", ".join(words)


# ---- tables ------------------------------------------------------------------------------


class Model:
    """The runs of one backbone and variant by seed, and the runs of the original backbone."""

    def __init__(self, backbone: str, variant: str, lines: Sequence[Line]) -> None:
        self.backbone, self.variant = backbone, variant

        def runs(of: str) -> dict[int, Line]:
            whats = [(x["what"], x) for x in lines]
            return {
                what["seed"]: line
                for what, line in whats
                if (what["backbone"], what["variant"]) == (backbone, of)
            }

        self.runs = runs(variant)
        self.originals = {} if variant == "original" else runs("original")
        self.searched = all("supernet" in x for x in self.runs.values())

    def score(self, kind: str, split: str, key: str) -> str | None:
        """Of the masked ``supernet`` or of the model ``trained`` again."""
        if kind == "supernet" and not self.searched:
            return None
        return with_deviation(self.runs, lambda x: x[kind][split][key])

    def gain(self) -> str | None:
        """Test AUC of the model trained again minus the test AUC of the supernet."""
        return self._minus(self.runs, "supernet") if self.searched else None

    def loss(self) -> str | None:
        """Test AUC of the model trained again minus the test AUC of the original."""
        return self._minus(self.originals, "trained")

    def _minus(self, others: Mapping[int, Line], kind: str) -> str | None:
        seeds = sorted(set(self.runs) & set(others))
        if not seeds:
            return None
        own = [self.runs[s]["trained"]["test"]["auc"] for s in seeds]
        theirs = [others[s][kind]["test"]["auc"] for s in seeds]
        return in_words(paired_difference(own, theirs))

    def evolved(self) -> str | None:
        """Validation AUC that the evolution added to the best of its first, random widths."""
        found = [x["record"].get("generations") for x in self.runs.values() if "record" in x]
        gains = [scored[-1]["score"] - scored[0]["score"] for scored in found if scored]
        return difference(sum(gains) / len(gains), float("nan")) if gains else None

    def sparsity(self) -> str:
        """The mean, and from which to which."""
        values = [x["sparsity"] for x in self.runs.values()]
        text = percent(sum(values) / len(values))
        if min(values) == max(values):
            return text
        return f"{text} ({percent(min(values))} to {percent(max(values))})"


def tables(lines: Sequence[Line]) -> list[str]:
    """Lines of one data set and all settings: their title, and rows per backbone and variant."""
    runs = [x["what"] for x in lines]
    in_plan = [(x["backbone"], x["variant"]) in PLAN and x["seed"] < PLAN_SEEDS for x in runs]
    more = f" and {len(runs) - sum(in_plan)} more" if not all(in_plan) else ""
    backbones = sorted({x["backbone"] for x in runs}, key=BACKBONES.index)
    models = [Model(b, v, lines) for b in backbones for v in VARIANTS]
    models = [m for m in models if m.runs]
    searched = [m for m in models if m.variant != "original"]
    return [
        f"{title(runs)}; {sum(in_plan)} of {len(PLAN) * PLAN_SEEDS} planned runs{more}:",
        "",
        *size_table(models),
        *score_table(models),
        *(gain_table(searched) if searched else []),
    ]


NAMES = (
    Column("backbone", lambda m: m.backbone),
    Column("variant", lambda m: m.variant),
)


def size_table(models: Sequence[Model]) -> list[str]:
    """What a policy holds and what it took."""
    columns = [
        *NAMES,
        Column("seeds", lambda m: len(m.runs), "d"),
        Column("floats", lambda m: mean(m.runs, "params"), ",.0f"),
        Column("sparsity", lambda m: m.sparsity()),
        Column(
            "search, s", lambda m: mean(m.runs, "search_seconds") if m.searched else None, ".0f"
        ),
        Column("training, s", lambda m: mean(m.runs, "train_seconds"), ".0f"),
    ]
    return table(columns, models)


def score_table(models: Sequence[Model]) -> list[str]:
    """Before: the masked supernet. After: trained again."""
    columns = [
        *NAMES,
        Column("validation AUC, before", lambda m: m.score("supernet", "val", "auc")),
        Column("after", lambda m: m.score("trained", "val", "auc")),
        Column("test AUC, before", lambda m: m.score("supernet", "test", "auc")),
        Column("after", lambda m: m.score("trained", "test", "auc")),
        Column("log loss, after", lambda m: m.score("trained", "test", "log_loss")),
    ]
    return table(columns, models)


def gain_table(models: Sequence[Model]) -> list[str]:
    """Differences of test AUC, paired by seed, and what the evolution gained in validation AUC."""
    columns = [
        *NAMES,
        Column("after − before", lambda m: m.gain()),
        Column("after − original", lambda m: m.loss()),
        Column("the evolution's gain", lambda m: m.evolved()),
    ]
    return table(columns, models)
