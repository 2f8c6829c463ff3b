"""Do other settings of the default search give a better answer, and does a search without a limit?

    python -m benchmarks.accuracy.search_variants planted --seeds 3 --record
    python -m benchmarks.accuracy.search_variants criteo --data data/criteo-46 --bytes 96k --record

A variant is the search ``seo`` with a changed setting, and is compared with the default one of the
same seed by the validation AUC of the answers. ``exhaustive`` trains every candidate in full, its
attentions too. In bytes an id takes 4, as in the command, or 8 with ``--id-bits 64``, as in the
lines that do not say it. Test rows are not read. Searches go to ``--out`` and are found again
there, unfinished ones too; ``--record`` adds the lines that the record does not have yet.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.accuracy.at_bytes import STUDIES
from benchmarks.accuracy.planted import planted_data, training_of
from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, path_of, recorded_fit
from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.environment import stamp
from seo_rec.planted import PLANTED_PARAMS, PLANTED_ROWS
from seo_rec.policy import Allowance, allowance_of
from seo_rec.policy.allowance import read_bytes
from seo_rec.policy.entries import FULL_BITS, ID_BITS, SHORT_BITS
from seo_rec.runs import command_line
from seo_rec.search import Found, find
from seo_rec.search.run_off import ROOM_FOR_ALL
from seo_rec.search.seo import AUTO, MOSTLY, SeoSearch
from seo_rec.settings import Training

RECORD = path_of("search-variants")
IDENTITY = (
    "study",
    "data_fingerprint",
    "budget",
    "unit",
    "variant",
    "seed",
    "fit",
    "model",
    "rule",
    "id_bits",
)
USUAL = {"id_bits": FULL_BITS}  # of lines from before there was a choice
METHOD, DIM = "seo", 16
PLANTED, DEFAULT, EXHAUSTIVE = "planted", "default", "exhaustive"


@dataclass(frozen=True)
class Variant:
    """What differs from the default search.

    Args:
        changes: Settings of the search.
        crosses: The option ``--crosses`` of the command.
        backbone: The model, where it is another one than the study has.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    crosses: str = "auto"
    backbone: str = ""


VARIANTS = {
    DEFAULT: Variant(),
    EXHAUSTIVE: Variant({"run_off.cost": ROOM_FOR_ALL}),  # without a limit there are fewer
    "limited": Variant({"run_off.in_full": False}),
    "precision-auto": Variant({"precision": AUTO}),
    "pairs": Variant(crosses="8"),
    "triples": Variant(crosses="8^3"),
    "tuned": Variant({"run_off.tune": True}),
    "ipnn": Variant(backbone="ipnn"),
}


@dataclass(frozen=True)
class Part:
    """All variants on one data set at one budget."""

    study: str
    data: DataSet
    allowance: Allowance
    training: Training

    def training_of(self, variant: str) -> Training:
        """How all models of a variant are trained."""
        backbone = VARIANTS[variant].backbone
        if not backbone:
            return self.training
        model = replace(self.training.model, backbone=backbone, interaction=None)
        return replace(self.training, model=model)

    def settings(self, variant: str) -> SeoSearch:
        """The settings of the search."""
        training, changes = self.training_of(variant), VARIANTS[variant].changes
        found = find(METHOD).settings_at(
            self.allowance, DIM, training, changes, in_comparison=self.study != PLANTED
        )
        assert isinstance(found, SeoSearch)
        return found

    def asked(self, variant: str) -> Line:
        """What a line is of."""
        training, off = self.training_of(variant), self.settings(variant).run_off
        assert off is not None
        return {
            "study": self.study,
            "data_fingerprint": self.data.fingerprint,
            "budget": self.allowance.amount,
            "unit": self.allowance.unit,
            "variant": variant,
            "seed": training.fit.seed,
            "fit": recorded_fit(training.fit),
            "model": training.model.as_json(),
            "rule": off.to_json()["rule"],
            "id_bits": self.allowance.id_bits,
        }

    def measured(self, variant: str, out: Path) -> Line:
        """Search, or find the search again in ``out``; its line."""
        training, settings = self.training_of(variant), self.settings(variant)
        epochs = training.fit.epochs
        whole = "-id64" * (self.allowance.in_bytes and self.allowance.id_bits == FULL_BITS)
        name = f"{self.data.path.name}-{self.allowance.amount}-{epochs}-{variant}{whole}"
        crosses = VARIANTS[variant].crosses
        found = recipes.search(
            METHOD, self.data, out / name, settings, training, resume=True, crosses=crosses
        )
        rows = self.data.schema.num_rows["train"]
        return {**told(found), **self.asked(variant), "rows": rows, "environment": stamp()}


def told(found: Found) -> Line:
    """What a line holds of a search; ``candidates`` has the validation AUC of whole trainings."""
    halving, scores = found.record["halving"], found.record["run_off"]
    read = (halving["rows"] + halving["elsewhere"]) / halving["one_training"]
    decision = found.policy.decision or {}
    return {
        "winner": found.winner,
        "val_auc": found.val_auc,
        "num_bytes": found.policy.num_bytes,
        "precision": decision.get("precision", ""),
        "taken": list(decision.get("crosses", {}).get("taken", ())),
        "settings": decision.get("settings", {}),
        "trainings": round(read, 3),
        "candidates": {
            name: score["val_auc"]
            for name, score in scores.items()
            if "same_as" not in score and "round" not in score
        },
        "command": command_line(),
    }


def parts(args: Namespace) -> Iterator[Part]:
    """One for each seed of the planted data, or for each prepared split."""
    if args.study == PLANTED:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            data = planted_data(args.rows, seed, args.out)
            yield Part(
                PLANTED, data, allowance_of(PLANTED_PARAMS), shortened(training_of(seed), args)
            )
        return
    study = STUDIES[args.study]
    training = shortened(Training(study.model, study.fit), args)
    amount = read_bytes(args.bytes) if args.bytes else study.budgets[1]
    for seed, path in enumerate(args.data, args.first_seed):
        allowance = Allowance(amount, "bytes", MOSTLY, args.id_bits)
        yield Part(args.study, open_data(path), allowance, training.with_seed(seed))


def shortened(training: Training, args: Namespace) -> Training:
    """The training with the epochs that were asked for."""
    if not args.epochs:
        return training
    return replace(training, fit=replace(training.fit, epochs=args.epochs))


def main() -> None:
    parser = make_parser(__doc__, RECORD, "runs/search-variants")
    parser.add_argument("study", choices=(PLANTED, *STUDIES))
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="prepared splits")
    parser.add_argument("--bytes", default="", help="budget, as 96k; default: the study's second")
    parser.add_argument("--seeds", type=int, default=3, help="of the planted data")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=PLANTED_ROWS, help="of the planted data")
    parser.add_argument("--id-bits", type=int, default=SHORT_BITS, choices=ID_BITS)
    parser.add_argument("--epochs", type=int, default=0, help="default: of the study")
    parser.add_argument(
        "--variants", nargs="*", default=[DEFAULT, EXHAUSTIVE], choices=VARIANTS, metavar="VARIANT"
    )
    args = parser.parse_args()
    if args.study != PLANTED and not args.data:
        parser.error(f"--data is missing; allowed: prepared splits of {args.study}")
    set_up(args.threads)
    records = Records(RECORD, IDENTITY, USUAL, writes=args.record)
    for part in parts(args):
        for variant in args.variants:
            asked = part.asked(variant)
            line = records.find(asked) or records.add(part.measured(variant, args.out))
            print(
                f"{part.data.path.name} {variant:14s} validation AUC {line['val_auc']:.5f}, "
                f"{line['trainings']:.1f} trainings  {line['winner']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
