"""Single parameters that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.cli.config import start_from
from seo_rec.cli.options import BUDGET, DATA, RUN, SEARCH, TRAINING, is_typed
from seo_rec.schema import DataError

if TYPE_CHECKING:
    from seo_rec.data.rawfile import BadRows


Data = Annotated[
    Path,
    typer.Argument(help="Prepared data set, a folder with schema.json.", rich_help_panel=DATA),
]
DataOfSeeds = Annotated[
    list[Path],
    typer.Argument(help="Prepared data set, or one for each seed.", rich_help_panel=DATA),
]
Out = Annotated[
    Path,
    typer.Option(help="Folder of the run; made, never overwritten.", rich_help_panel=RUN),
]


def number_of_params(text: str | int) -> int:
    """The value of ``--params``, as 96000 or 96k; of ``--config`` it is a number.

    Raises:
        BadParameter: It is no whole number.
    """
    from seo_rec.policy import PolicyError
    from seo_rec.policy.allowance import read_params

    try:
        return int(text)
    except ValueError:
        pass
    try:
        return read_params(str(text))
    except PolicyError as error:
        raise typer.BadParameter(str(error)) from None


Params = Annotated[
    int | None,
    typer.Option(
        parser=number_of_params,
        metavar="NUMBER",
        help="Budget in parameters (floats), as 96k; by default one is proposed.",
        rich_help_panel=BUDGET,
        show_default=False,
    ),
]
Bytes = Annotated[
    str | None,
    typer.Option(
        "--bytes",
        metavar="NUMBER",
        help="Budget in bytes to serve, ids included, as 384k or 1.5Mi.",
        rich_help_panel=BUDGET,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="Type of stored rows: float32, float16, bfloat16, int8, int4.",
        rich_help_panel=BUDGET,
    ),
]
SearchPrecision = Annotated[
    str,
    typer.Option(
        help="Rows: float32, float16, bfloat16, int8, int4 or auto.",
        rich_help_panel=BUDGET,
    ),
]
IdBits = Annotated[
    int | None,
    typer.Option(
        metavar="32|64",
        help="Bits of a stored id; by default 32 with --bytes, 64 without.",
        rich_help_panel=BUDGET,
        show_default=False,
    ),
]
BudgetOf = Annotated[
    Path | None,
    typer.Option(help="Take the budget of this policy file instead.", rich_help_panel=BUDGET),
]
Dim = Annotated[
    int,
    typer.Option(help="Width of the embedding of one feature, in floats.", rich_help_panel=BUDGET),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the method, as alpha=0.01. Repeatable.",
        rich_help_panel=SEARCH,
    ),
]
SetOfMethod = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="METHOD.KEY=VALUE",
        help="A setting of one method, as seo.chunk_dim=4. Repeatable.",
        rich_help_panel=SEARCH,
    ),
]
MethodInPlaceOfPolicy = Annotated[
    str,
    typer.Option(
        "--method",
        help="A method by name in place of --policy: monolithic, separate, ...",
        rich_help_panel=SEARCH,
    ),
]
ExactBelow = Annotated[
    int,
    typer.Option(
        help="Features with at most so many training ids keep a row for each; 0: none.",
        rich_help_panel=SEARCH,
    ),
]
SameHash = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAMES",
        help="Features that hash alike, as query,title. Repeatable.",
        rich_help_panel=SEARCH,
    ),
]


def _crosses(context: typer.Context, text: str) -> str:
    """``none`` is what no text says, for every command; ``--cross-order`` stands behind a number.

    An order of ``--config`` says nothing about other crosses that are typed.

    Raises:
        BadParameter: The order would be ignored.
    """
    order = context.params.get("cross_order", 2)
    if order == 2 or "^" in text:
        return "" if text == "none" else text
    if not text.strip().isdecimal():
        if is_typed(context, "crosses") and not is_typed(context, "cross_order"):
            context.params["cross_order"] = 2
            return "" if text == "none" else text
        raise typer.BadParameter(
            f"--crosses {text or 'none'} with --cross-order {order}, which says how many columns a "
            "proposed cross may have; allowed: a number of crosses, as --crosses 8; crosses that "
            "are given by name have the columns of their names"
        )
    return f"{text.strip()}^{order}"


Crosses = Annotated[
    str,
    typer.Option(
        callback=_crosses,
        metavar="N|all|A*B",
        help="Pairs of columns as further features: the N best, all, or by name.",
        rich_help_panel=SEARCH,
    ),
]
SearchCrosses = Annotated[
    str,
    typer.Option(
        callback=_crosses,
        metavar="auto|N|A*B",
        help="Pairs of columns to try as features, or none.",
        rich_help_panel=SEARCH,
    ),
]
CrossOrder = Annotated[
    int,
    typer.Option(
        is_eager=True,
        min=2,
        max=3,
        metavar="2|3",
        help="Most columns of a proposed cross.",
        rich_help_panel=SEARCH,
    ),
]
Seed = Annotated[
    int,
    typer.Option(help="Seed of weights, order of rows and hash functions.", rich_help_panel=RUN),
]
Threads = Annotated[
    int, typer.Option(help="CPU threads; 0 leaves the choice to torch.", rich_help_panel=RUN)
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the run found in --out.", rich_help_panel=RUN),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Go on from this finished run: its model, optimizer state and vocabularies.",
        rich_help_panel=TRAINING,
        show_default=False,
    ),
]
Carry = Annotated[
    bool,
    typer.Option(
        "--carry",
        help="With --from: the policy or method given takes over the tables of the earlier run.",
        rich_help_panel=TRAINING,
    ),
]
CountDecay = Annotated[
    float,
    typer.Option(
        help="With --from: what is left of the count of an id after a day, for vocabularies.",
        rich_help_panel=TRAINING,
    ),
]
SharedRows = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="With --from: of the rows of a large vocabulary, for all its other ids, as 0.05.",
        rich_help_panel=TRAINING,
    ),
]
Candidates = Annotated[
    bool,
    typer.Option(
        help="With --from: rows in training for ids that may enter a vocabulary; not served.",
        rich_help_panel=TRAINING,
    ),
]
MeanAnew = Annotated[
    bool | None,
    typer.Option(
        "--mean-anew/--mean-goes-on",
        help="With --from: whether the running mean of weights starts at the earlier weights, as "
        "suits days that differ (default), or goes on from the earlier mean.",
        rich_help_panel=TRAINING,
    ),
]
Package = Annotated[Path, typer.Argument(help="Package of seo-rec export.", rich_help_panel=DATA)]
Engine = Annotated[str, typer.Option(help="onnxruntime, numpy, or auto.", rich_help_panel=RUN)]
OnBadRow = Annotated[
    str,
    typer.Option(
        help="error: stop at the first bad row; skip: leave it out and count it.",
        rich_help_panel=RUN,
    ),
]
MaxBad = Annotated[
    int | None,
    typer.Option(
        help="With --on-bad-row skip: stop after more bad rows than this. (default: 1000)",
        rich_help_panel=RUN,
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        is_eager=True,
        callback=start_from,
        help="Start from the settings.json of a run; options replace its values.",
        rich_help_panel=RUN,
    ),
]
Group = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        metavar="FEATURE",
        help="Measure GAUC within each of its ids, as user. Repeatable.",
        rich_help_panel=RUN,
    ),
]
By = Annotated[
    list[str] | None,
    typer.Option(
        "--by",
        metavar="FEATURE",
        help="Measure quality for each of its ids, as device. Repeatable.",
        rich_help_panel=RUN,
    ),
]
ByFrequency = Annotated[
    list[str] | None,
    typer.Option(
        "--by-frequency",
        metavar="FEATURE",
        help="Measure quality by how many training rows hold its id, as item. Repeatable.",
        rich_help_panel=RUN,
    ),
]


def bad_rows(action: str, max_bad: int | None) -> BadRows:
    """What ``--on-bad-row`` and ``--max-bad`` ask for.

    Raises:
        DataError: A value is not allowed, or ``--max-bad`` would be ignored.
    """
    from seo_rec.data.rawfile import BadRows

    if action == "error" and max_bad is not None:
        raise DataError("--max-bad is given without --on-bad-row skip; add that or leave it out")
    return BadRows(action) if max_bad is None else BadRows(action, max_bad)


def groups(texts: list[str] | None, option: str) -> tuple[tuple[str, ...], ...]:
    """``["a,b", "c,d"]`` as groups of two names or more."""
    found = tuple(tuple(n.strip() for n in t.split(",") if n.strip()) for t in texts or ())
    if any(len(names) < 2 for names in found):
        raise ValueError(f"{option} {' '.join(texts or ())}; allowed: two names or more, as a,b")
    return found
