"""What does the default search answer at equal bytes, ids included, and what do plain rivals?

    python -m benchmarks.accuracy.at_bytes criteo --data data/criteo-50 ... data/criteo-54

A study is a data set, its budgets in bytes to serve, and how models are trained, which was chosen
on validation rows of other splits. Every prepared split is one seed. Each method is trained once
per split, budget and precision; the search ``seo`` is the default of ``seo-rec search``, which may
take crosses of columns into the same bytes, and with ``--crosses none`` the same search without
them. A row with an id of its own takes 4 bytes for the id, with ``--id-bits 64`` it takes 8, as in
the lines that do not say it. The line of a search says the rule of its run-off, which
is counted up with every change of the rounds: another rule is another line. Runs go to ``--out``
and are found again there, unfinished ones too. ``--record`` adds the lines that the record does
not have yet.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accuracy.evidence import compare_feasible
from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, outcome, path_of, recorded_fit
from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.policy import Policy
from seo_rec.policy.allowance import read_bytes
from seo_rec.policy.entries import FULL_BITS, ID_BITS, SHORT_BITS
from seo_rec.recipes.crossing import AUTO, takes_automatic
from seo_rec.runs import Run, SearchCost, read_runs
from seo_rec.runs.layout import POLICY_FILE, RESULTS_FILE, search_folder, training_folder
from seo_rec.search import find
from seo_rec.search.run_off.settings import LIMITED_RULE
from seo_rec.settings import FitSettings, ModelSettings, Training

RECORD = path_of("at-bytes")
IDENTITY = ("study", "data_fingerprint", "bytes", "precision", "method", "fit", "model", "crosses",
            "id_bits", "rule")  # fmt: skip
NONE = "none"  # of --crosses
UNSAID = 0  # the rule of the run-off in lines that do not say it, and in those without a run-off
# Of lines from before there was a choice.
USUAL = {"crosses": NONE, "id_bits": FULL_BITS, "rule": UNSAID}
DEFAULT = "seo"
HASHED = ("separate", "monolithic", "multi-size", "multi-size-4", "multi-size-8")  # no ids stored
PLAIN = (*HASHED, "mixed-dimension", "no-search")
METHODS = (*PLAIN, "frequent", DEFAULT)
PRECISIONS = ("float32", "int8")
TIMES = ("seconds", "seconds_per_epoch")  # not in the record: several parts may run side by side


@dataclass(frozen=True)
class Study:
    """A data set, its budgets in bytes, and how all models of it are trained.

    Args:
        budgets: Bytes to serve.
        fit: How all models are trained.
        settings: Values of a family of methods that differ from those of ``seo-rec compare``.
        model: The backbone of all models.
    """

    budgets: tuple[int, ...]
    fit: FitSettings
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    model: ModelSettings = field(default_factory=ModelSettings)


STUDIES = {
    "movielens": Study(
        (192_000, 384_000, 768_000),
        FitSettings(row_l2=16e-4, epochs=12),
        model=ModelSettings("ipnn", dropout=0.1),
    ),
    "criteo": Study(
        (128_000, 320_000, 1_280_000),
        FitSettings(batch_size=512, row_lr=1e-3, dense_lr=1e-3, row_l2=1e-2, epochs=12),
        {"frequent": {"dim": 8}},
    ),
    "retrosheet": Study((32_000, 96_000, 288_000), FitSettings(row_l2=1e-3, epochs=8)),
    "flights": Study(
        (64_000, 256_000, 1_024_000),
        FitSettings(row_l2=3e-3, epochs=10),
        {"frequent": {"dim": 8}},
        ModelSettings("ipnn"),
    ),
}


@dataclass(frozen=True)
class Part:
    """The methods at one budget and precision, on one split, which is a seed."""

    name: str
    study: Study
    data: DataSet
    seed: int
    num_bytes: int
    precision: str
    methods: tuple[str, ...]
    crosses: str = AUTO
    id_bits: int = SHORT_BITS

    @property
    def folder(self) -> str:
        """Of its comparison."""
        whole = "-id64" * (self.id_bits == FULL_BITS)
        return f"{self.name}-{self.num_bytes}-{self.precision}-{self.data.fingerprint[:8]}{whole}"

    def bits_of(self, method: str) -> int:
        """The bits of the ids that a method stores; 64 for methods that store none."""
        return FULL_BITS if method in HASHED else self.id_bits

    def comparison(self, methods: tuple[str, ...]) -> recipes.Comparison:
        """Some of its methods, of one family."""
        family = find(methods[0]).family
        changes = self.study.settings.get(family)
        return recipes.Comparison(
            data=(self.data,),
            methods=methods,
            params=0,
            num_bytes=self.num_bytes,
            precision=self.precision,
            id_bits=self.id_bits,
            seeds=1,
            first_seed=self.seed,
            training=Training(self.study.model, self.study.fit),
            settings={family: changes} if changes else {},
        )

    def asked(self, method: str) -> Line:
        """What a line is of."""
        return {
            "study": self.name,
            "data_fingerprint": self.data.fingerprint,
            "bytes": self.num_bytes,
            "precision": self.precision,
            "method": method,
            "fit": recorded_fit(self.study.fit),
            "model": self.study.model.as_json(),
            "crosses": AUTO if self.takes_crosses(method) else NONE,
            "id_bits": self.bits_of(method),
            "rule": LIMITED_RULE if method == DEFAULT else UNSAID,
        }

    def takes_crosses(self, method: str) -> bool:
        """Whether a method is a search that may take crosses of columns, and is let."""
        entry = find(method)
        settings = self.comparison((method,)).settings_of(entry)
        return self.crosses == AUTO and takes_automatic(entry, settings)

    def line(self, run: Run, folder: Path) -> Line:
        """The line of a training, and what its search decided."""
        policy = Policy.load(training_folder(folder, run.method, run.seed) / POLICY_FILE)
        decision = policy.decision or {}
        told = {k: v for k, v in outcome(run).items() if k not in TIMES}
        return {
            **told,
            **self.asked(run.method),
            "split": self.seed,
            "winner": decision.get("winner", run.method),
            "taken": list(decision.get("crosses", {}).get("taken", ())),
        }


def parts(args: Namespace) -> Iterator[Part]:
    """Split by split, so that every budget has its first split early."""
    asked, names = STUDIES[args.study], tuple(args.methods)
    budgets = [read_bytes(text) for text in args.bytes] or asked.budgets
    for seed, opened in enumerate([open_data(path) for path in args.data]):
        for size in budgets:
            for precision in args.precision:
                where = (args.study, asked, opened, seed, size, precision)
                yield Part(*where, names, args.crosses, args.id_bits)


def run(part: Part, records: Records, out: Path) -> None:
    """Train what the record lacks of a part, and add its lines."""
    missing = tuple(m for m in part.methods if records.find(part.asked(m)) is None)
    apart = out / f"{part.folder}-crosses"
    for method in filter(part.takes_crosses, missing):
        records.add(part.line(search_with_crosses(part, method, apart), apart))
    bare = tuple(m for m in missing if not part.takes_crosses(m))
    compare_plain(part, bare, records, out / part.folder)


def search_with_crosses(part: Part, method: str, folder: Path) -> Run:
    """What ``seo-rec search`` answers by default, and its training as ``seo-rec train`` does it."""
    comparison = part.comparison((method,))
    settings = comparison.settings_of(find(method))
    training = comparison.training.with_seed(part.seed)
    searched = search_folder(folder, method, part.seed)
    found = recipes.search(
        method, part.data, searched, settings, training, resume=True, crosses=AUTO
    )
    return recipes.train(
        part.data,
        found.policy,
        training_folder(folder, method, part.seed),
        training,
        method=method,
        resume=True,
        search=SearchCost(found.seconds, found.peak_bytes),
    )


def compare_plain(part: Part, missing: tuple[str, ...], records: Records, folder: Path) -> None:
    """Train methods on the columns alone, and add their lines."""
    families = dict.fromkeys(find(m).family for m in missing)
    for family in families:
        methods = tuple(m for m in missing if find(m).family == family)
        compare_feasible(part.comparison, methods, folder, part.folder)
    if (folder / RESULTS_FILE).exists():
        for done in read_runs(folder / RESULTS_FILE):
            if done.method in missing:
                records.add(part.line(done, folder))


def report(part: Part, records: Records) -> None:
    """Print validation figures; test rows are read by the page, once all splits are there."""
    for method in part.methods:
        if line := records.find(part.asked(method)):
            print(
                f"{part.folder} {method:16s} {line['num_bytes']:>10,d} bytes  validation AUC "
                f"{line['val_auc']:.5f}  {line['winner']}",
                flush=True,
            )


def main() -> None:
    parser = make_parser(__doc__, RECORD, "runs/at-bytes")
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prepared splits")
    parser.add_argument("--bytes", nargs="*", default=[], help="some budgets only, as 320k")
    parser.add_argument("--precision", nargs="*", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="some only")
    parser.add_argument("--crosses", default=AUTO, choices=(AUTO, NONE), help="of the search")
    parser.add_argument("--id-bits", type=int, default=SHORT_BITS, choices=ID_BITS)
    args = parser.parse_args()
    set_up(args.threads)
    records = Records(RECORD, IDENTITY, USUAL, writes=args.record)
    try:
        for part in parts(args):
            run(part, records, args.out)
            report(part, records)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
