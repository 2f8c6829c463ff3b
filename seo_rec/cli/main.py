"""The command ``seo-rec``, put together from its commands; how it starts and how it fails.

doctor | demo | prepare | compare | search | train | eval | report | tune | frontier | apply
plan | export | predict | serve | apply-delta | replay | drift | analyze
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from seo_rec.cli.analyze import app as analyze_app
from seo_rec.cli.apply import apply
from seo_rec.cli.compare import compare
from seo_rec.cli.demo import demo
from seo_rec.cli.doctor import doctor
from seo_rec.cli.drift import drift
from seo_rec.cli.evaluate import evaluate
from seo_rec.cli.export import export
from seo_rec.cli.frontier import frontier
from seo_rec.cli.jobs import FURTHER_OPTIONS, job_applier, job_search
from seo_rec.cli.options import PanelCommand
from seo_rec.cli.plan import plan
from seo_rec.cli.predict import apply_delta, predict
from seo_rec.cli.prepare import app as prepare_app
from seo_rec.cli.replay import replay
from seo_rec.cli.report import report
from seo_rec.cli.running import STOPS, stopped
from seo_rec.cli.search import search
from seo_rec.cli.serve import serve
from seo_rec.cli.train import train
from seo_rec.cli.tune import tune
from seo_rec.files import one_line, said
from seo_rec.places import local_argument
from seo_rec.process import (
    EXIT_TERMINATED,
    leave,
    quiet_libraries,
    run_and_leave,
    sigterm_raises,
    spell_plainly,
    world_size,
)
from seo_rec.runs.claim import RunError
from seo_rec.stack import StackError, without_training

T = TypeVar("T")
READING_ORDER = (
    *("doctor", "demo", "prepare", "compare", "search", "train", "eval", "report", "tune"),
    *("frontier", "apply", "plan", "export", "predict", "serve", "apply-delta", "replay", "drift"),
    "analyze",
)


class _Stoppable(TyperGroup):
    """Commands that say so when they are stopped outside of a run folder, which says more.

    Paths among their arguments may be ``file://`` URLs.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, [local_argument(argument) for argument in args])

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """In the order in which a newcomer needs them; further ones follow."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda n: READING_ORDER.index(n) if n in READING_ORDER else 99)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except STOPS as stop:
            left = "nothing of this command is kept; the same command starts again"
            raise stopped(stop, left) from None
        except typer.BadParameter as error:
            raise _with_value(error) from error.__cause__


def _with_value(error: typer.BadParameter) -> typer.BadParameter:
    """``error``, which also says what was given; typer says what is allowed."""
    found: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if found and "input" in found[0]:
        error.message = f"{error.message.partition(',')[0]}, got {found[0]['input']!r:.60}."
    return error


app = typer.Typer(
    name="seo-rec",
    cls=_Stoppable,
    help="Share and divide one embedding budget among categorical features.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# mistakes of a user that are known for such without a look at seo_rec.errors
PLAIN_MISTAKES = (ValueError, FloatingPointError, RunError)
# the commands that the processes of one launch run together
LAUNCHED = ("search", "train", "eval", "compare", "frontier", "demo", "job-search", "job-applier")
# their processes meet on the file system alone, and need no process group
BY_FILES = ("prepare", "tune")


@app.callback()
def _main(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every epoch.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    logging.getLogger("seo_rec.progress").setLevel(logging.INFO)
    quiet_libraries()
    world = 1 if context.invoked_subcommand in BY_FILES else world_size()
    if world > 1 and context.invoked_subcommand not in LAUNCHED:
        raise ValueError(
            f"{world} processes were started and {context.invoked_subcommand} runs in one; "
            f"allowed in several: {', '.join((*LAUNCHED, *BY_FILES))}"
        )
    if world > 1:
        from seo_rec.train import agree  # imports torch, which a launch has done by now

        agree({"command": context.invoked_subcommand})


app.add_typer(prepare_app, name="prepare")
app.command(cls=PanelCommand)(search)
app.command(cls=PanelCommand)(apply)
app.command(cls=PanelCommand)(plan)
app.command(cls=PanelCommand)(train)
app.command(cls=PanelCommand)(tune)
app.command(cls=PanelCommand)(replay)
app.command(name="eval", cls=PanelCommand)(evaluate)
app.command(cls=PanelCommand)(export)
app.command(cls=PanelCommand)(predict)
app.command(cls=PanelCommand)(serve)
app.command(cls=PanelCommand)(apply_delta)
app.command(cls=PanelCommand)(compare)
app.command(cls=PanelCommand)(frontier)
app.add_typer(analyze_app, name="analyze")
app.command(cls=PanelCommand)(drift)
app.command(cls=PanelCommand)(report)
app.command(cls=PanelCommand)(demo)
app.command()(doctor)
app.command(hidden=True, context_settings=FURTHER_OPTIONS)(job_search)
app.command(hidden=True, context_settings=FURTHER_OPTIONS)(job_applier)


def main() -> None:
    """Run the command line, in one process or as one of a launch."""
    spell_plainly()
    words = (word for word in sys.argv[1:] if not word.startswith("-"))
    if _told(world_size) == 1 or next(words, "") in BY_FILES:
        with sigterm_raises():  # several processes are stopped together, by their launcher
            _told(_run)
    else:
        run_and_leave(lambda: _told(_launched))


def _run() -> None:
    app(prog_name="seo-rec")


def _told(command: Callable[[], T]) -> T:
    """What a command returns; a user's mistake gives one message and exit status 2."""
    try:
        return command()
    except StackError as error:
        typer.echo(f"error: {one_line(error)}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (message := without_training(error)) is None:
            raise
        typer.echo(f"error: {message}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except PLAIN_MISTAKES as error:
        typer.echo(f"error: {one_line(error)}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"error: {one_line(said(error))}", err=True)
        sys.exit(2)
    except Exception as error:
        if "torch" not in sys.modules:
            raise
        from seo_rec import errors  # imports torch, which all further mistakes come from

        if isinstance(error, errors.OtherRankError):
            if _first_elsewhere():
                typer.echo(f"error: rank 0 says: {one_line(error)}", err=True)
            sys.exit(2)  # the rank that failed says why
        if isinstance(error, errors.Preempted):
            if os.environ.get("RANK", "0") == "0":  # all ranks stop together
                typer.echo(str(error), err=True)
            sys.exit(EXIT_TERMINATED)
        if not isinstance(error, errors.USER_ERRORS):
            raise
        typer.echo(f"error: {one_line(error)}", err=True)
        sys.exit(2)


def _first_elsewhere() -> bool:
    """Whether this is the first rank of a machine whose terminal does not show what rank 0 says."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # ranks of a machine have numbers in a row
    local, rank = os.environ.get("LOCAL_RANK", "0"), os.environ.get("RANK", "0")
    return local == "0" and int(rank) >= max(1, here)


def _launched() -> None:
    """Run the command in every process of a launch; rank 0 alone writes to the terminal.

    A mistake that all ranks find is said by rank 0, and by one rank of every other machine; what
    one rank alone finds, by that rank; and that they were told different things, by all. If a rank
    is lost, one of the others says so, and all of them end with status 1.
    """
    from seo_rec.errors import USER_ERRORS, DisagreementError, OtherRankError
    from seo_rec.train import LostRankError, heard, launched, loss_said, lost, said_by_first
    from seo_rec.train.lost_ranks import ANOTHER

    with launched() as ranks:
        if not ranks.first:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  until the process ends
        try:
            with loss_said():
                _run()
        except LostRankError as error:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher now ends all ranks
            if who := lost(ranks):
                typer.echo(f"error: {str(error).replace(ANOTHER, who, 1)}", err=True)
            leave(1)  # no destructor of a process group runs, which would wait for other ranks
        except OtherRankError:
            heard(ranks)
            raise
        except DisagreementError:
            raise
        except USER_ERRORS as error:
            if said_by_first(ranks, one_line(error)):
                raise OtherRankError(str(error)) from error
            raise


if __name__ == "__main__":
    main()
