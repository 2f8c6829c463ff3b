"""Parameters that several commands have: single ones, and the options of model and training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seo_rec.backbone_settings import BACKBONE_NAMES, INTERACTIONS, Interaction
from seo_rec.cli.config import start_from
from seo_rec.cli.fields import fields_of, type_name, value_of
from seo_rec.cli.options import (
    BUDGET,
    DATA,
    MODEL,
    RUN,
    SEARCH,
    TRAINING,
    FromSettings,
    Option,
    is_typed,
)
from seo_rec.methods import Mlet
from seo_rec.multi_task import MultiTask
from seo_rec.schema import DataError
from seo_rec.settings import FitSettings, ModelSettings

if TYPE_CHECKING:
    from seo_rec.data.rawfile import BadRows

# ---- single parameters -------------------------------------------------------------------

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
Params = Annotated[
    int | None,
    typer.Option(
        help="Budget in parameters (floats); by default one is proposed.",
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
    bool,
    typer.Option(
        "--mean-anew",
        help="With --from: the running mean of weights starts at the earlier weights (for drift).",
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


# ---- settings of the model and of the training -------------------------------------------


def interaction(backbone: str, text: str) -> Interaction | None:
    """``"layers=3,rank=16"`` as settings of the backbone; widths are written ``512x256``.

    Raises:
        ValueError: A setting that the backbone does not have, or a value that is not allowed.
    """
    if not text:
        return None
    kind = INTERACTIONS.get(backbone)
    if kind is None:
        raise ValueError(
            f"--interaction {text!r} with --backbone {backbone}; allowed with: "
            f"{', '.join(INTERACTIONS)}"
        )
    fields, values = fields_of(kind), dict[str, Any]()
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in fields or name in values:
            raise ValueError(
                f"--interaction {text!r}: {part.strip()!r}; allowed, each once: "
                f"{', '.join(f'{n}={type_name(f.kind)}' for n, f in fields.items())}"
            )
        where = f"{name} of --interaction"
        values[name] = value_of(value.replace("x", ","), fields[name].kind, where)
    return kind(**values)


def _model(values: dict[str, Any]) -> ModelSettings:
    text = values.pop("interaction")
    return ModelSettings(interaction=interaction(values["backbone"], text), **values)


def _mlet(values: dict[str, Any]) -> Mlet | None:
    if values["dim"]:
        return Mlet(**values)
    if values["std"] != fields_of(Mlet)["std"].default:
        raise ValueError(
            f"--mlet-std {values['std']} without --mlet-dim; give the inner dimension too"
        )
    return None


MODEL_OPTIONS = FromSettings(
    ModelSettings,
    MODEL,
    (
        Option(
            "backbone",
            help=f"{', '.join(BACKBONE_NAMES[:-1])} or {BACKBONE_NAMES[-1]}",
        ),
        Option("interaction", help="Settings of the backbone, as layers=3,rank=16"),
        Option("hidden"),
        Option("dropout"),
        Option("positive_weight", panel=TRAINING),
    ),
    _model,
)
MLET_OPTIONS = FromSettings(
    Mlet,
    MODEL,
    (Option("mlet_dim", ("dim",), default=0), Option("mlet_std", ("std",))),
    _mlet,
)


def _multi_task(values: dict[str, Any]) -> MultiTask | None:
    made = MultiTask(**values)
    return None if made == MultiTask() else made


MULTI_TASK_OPTIONS = FromSettings(
    MultiTask,
    MODEL,
    (
        Option(
            "label_weights",
            ("weights",),
            help="Of several labels: factors of their losses, as click=1,buy=5 (else 1)",
            panel=TRAINING,
        ),
        Option("sharing", help="What several labels share above the embeddings: bottom, or mmoe"),
        Option("shared", help="Widths of the layers that labels share, or of an expert of mmoe"),
        Option("experts"),
        Option(
            "keep_label",
            ("kept",),
            help="Of several labels the one that says which epoch is best; by default the first",
            panel=TRAINING,
        ),
    ),
    _multi_task,
)

EPOCHS = Option("epochs")
PATIENCE = Option("patience")
BATCH_SIZE = Option("batch_size", word="auto")
LR = Option("lr", ("row_lr", "dense_lr"), help="Learning rate of tables and dense layers")
DENSE_LR = Option(
    "dense_lr", default=0.0, help="Learning rate of the dense layers; 0: as --lr", unset=0.0
)
OPTIMIZER = Option("optimizer", ("row_optimizer",))
DENSE_OPTIMIZER = Option("dense_optimizer")
AVERAGE = Option("average")
KEEP_BY = Option("keep_by")
L2 = Option("l2", ("row_l2",), word="auto")
L2_ON = Option("l2_on")
STORAGE = Option("storage")
WARMUP = Option("warmup_steps")
SCHEDULE = Option("schedule")
CLIP_NORM = Option("clip_norm")
CHECKPOINT_EVERY = Option("checkpoint_every")
SEED = Option("seed", panel=RUN)
FIT = (EPOCHS, PATIENCE, KEEP_BY, BATCH_SIZE, LR, DENSE_LR, OPTIMIZER, AVERAGE, L2, L2_ON)
STEPS = (WARMUP, SCHEDULE, CLIP_NORM, DENSE_OPTIMIZER)

TRAIN_OPTIONS = FromSettings(FitSettings, TRAINING, (*FIT, STORAGE, *STEPS, CHECKPOINT_EVERY, SEED))
SEARCH_OPTIONS = FromSettings(FitSettings, TRAINING, (*FIT, CHECKPOINT_EVERY, SEED))
COMPARE_OPTIONS = FromSettings(FitSettings, TRAINING, (*FIT, *STEPS))


def groups(texts: list[str] | None, option: str) -> tuple[tuple[str, ...], ...]:
    """``["a,b", "c,d"]`` as groups of two names or more."""
    found = tuple(tuple(n.strip() for n in t.split(",") if n.strip()) for t in texts or ())
    if any(len(names) < 2 for names in found):
        raise ValueError(f"{option} {' '.join(texts or ())}; allowed: two names or more, as a,b")
    return found
