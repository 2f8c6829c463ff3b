"""The command ``seo-rec``.

prepare | search | apply | plan | train | eval | compare | frontier
analyze | report | demo | doctor
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.cli import options as opt
from seo_rec.cli.analyze import app as analyze_app
from seo_rec.cli.doctor import doctor
from seo_rec.cli.frontier import frontier
from seo_rec.cli.jobs import FURTHER_OPTIONS, job_applier, job_search
from seo_rec.cli.plan import plan
from seo_rec.cli.prepare import app as prepare_app
from seo_rec.process import quiet_libraries, run_and_leave
from seo_rec.stack import StackError

if TYPE_CHECKING:
    from seo_rec.policy import Policy
    from seo_rec.recipes import Comparison

app = typer.Typer(
    name="seo-rec",
    help="Share and divide one embedding budget among categorical features.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(prepare_app, name="prepare")
app.add_typer(analyze_app, name="analyze")

# options of `search` that only SEO reads
SEO_OPTIONS = frozenset(
    {
        "budget_rows",
        "dim",
        "chunk_dim",
        "search_dim",
        "total_chunks",
        "min_chunks",
        "chunk_hashing",
        "use_down_projection",
        "adjust_hash_buckets",
        "temperature",
        "temperature_end",
        "attention_scale",
        "search_split",
        "warmup_epochs",
        "logit_lr",
        "run_off",
        "run_off_epochs",
        "by_id",
    }
)
# options of `search` that say how a model is trained, which some searches do not
TRAINING_OPTIONS = (
    "backbone",
    "interaction",
    "hidden",
    "dropout",
    "epochs",
    "patience",
    "batch_size",
    "lr",
    "optimizer",
    "average",
    "l2",
    "checkpoint_every",
)
EXIT_PREEMPTED = 143  # 128 + SIGTERM, as a shell reports a process ended by that signal


# the commands that the processes of one launch run together
LAUNCHED = ("search", "train", "eval", "compare", "frontier", "demo", "job-search", "job-applier")


@app.callback()
def _main(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every epoch.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    quiet_libraries()
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1" and context.invoked_subcommand not in LAUNCHED:
        raise ValueError(
            f"{world} processes were started and {context.invoked_subcommand} runs in one; "
            f"allowed in several: {', '.join(LAUNCHED)}"
        )


@app.command()
def search(
    context: typer.Context,
    data: opt.Data,
    out: opt.Out,
    method: opt.SearchMethod = "seo",
    set_: opt.Set = None,
    budget_rows: opt.BudgetRows = 6000,
    budget_of: opt.BudgetOf = None,
    dim: opt.Dim = 16,
    chunk_dim: opt.ChunkDim = 8,
    search_dim: opt.SearchDim = 32,
    total_chunks: opt.TotalChunks = 0,
    min_chunks: opt.MinChunks = 1,
    chunk_hashing: opt.ChunkHashing = "independent",
    use_down_projection: opt.DownProjection = False,
    adjust_hash_buckets: opt.AdjustBuckets = False,
    temperature: opt.Temperature = 1.0,
    temperature_end: opt.TemperatureEnd = 0.0,
    attention_scale: opt.AttentionScale = "mean-one",
    search_split: opt.SearchSplit = "train",
    warmup_epochs: opt.WarmupEpochs = 1,
    logit_lr: opt.LogitLr = 5e-3,
    run_off: Annotated[
        bool, typer.Option(help="Choose among candidates on validation rows; else the top chunks.")
    ] = True,
    run_off_epochs: opt.RunOffEpochs = 20,
    by_id: opt.ById = True,
    backbone: opt.Backbone = "mlp",
    interaction: opt.InteractionText = "",
    hidden: opt.Hidden = "256,128",
    dropout: opt.Dropout = 0.0,
    epochs: opt.Epochs = 20,
    patience: opt.Patience = 2,
    batch_size: opt.BatchSize = 2048,
    lr: opt.Lr = 2e-3,
    optimizer: opt.Optimizer = "adam",
    average: opt.Average = 0.998,
    l2: opt.L2 = 0.0,
    checkpoint_every: opt.CheckpointEvery = 0,
    seed: opt.Seed = 0,
    threads: opt.Threads = 0,
    resume: opt.Resume = False,
) -> None:
    """Search a policy, OUT/policy.json: by SEO stage 1, or by another --method."""
    opt.set_threads(threads)
    from seo_rec import recipes
    from seo_rec.search.dimgrow import check_adapt
    from seo_rec.search.seo import SeoSettings

    model_settings = opt.model_settings(backbone, interaction, hidden, dropout)
    fit_settings = opt.fit_settings(
        epochs,
        patience,
        batch_size,
        lr,
        optimizer,
        average,
        l2,
        seed,
        checkpoint_every=checkpoint_every,
    )
    if method != "seo":
        params = opt.params_of(budget_of) if budget_of else None
        settings = opt.settings_of(method, set_ or [], params)
        opt.refuse_other_options(context, method, SEO_OPTIONS)
        if method in recipes.UNTRAINED:
            searches = "searches that train a model"
            opt.refuse_ignored(context, TRAINING_OPTIONS, f"--method {method}", searches)
        if method == "dimgrow":
            searches = "searches that keep a mean of their weights"
            opt.refuse_ignored(context, ["average"], "--method dimgrow", searches)
            check_adapt(settings.adapt, backbone)
        found = recipes.search_by(
            method, data, out, settings, model_settings, fit_settings, resume=resume
        )
        _say_searched(out, method, found.policy)
        return
    if set_:
        raise ValueError(f"--set {set_[0]!r} with --method seo; its settings are options")
    _refuse_idle_warmup(context, search_split)
    if not run_off:
        opt.refuse_ignored(context, ["run_off_epochs", "by_id"], "--no-run-off", "--run-off")
    if budget_of:
        budget_rows = opt.budget_rows_of(budget_of, dim, context, "budget_rows")
    policy = recipes.search(
        data,
        out,
        SeoSettings(
            budget_rows=budget_rows,
            dim=dim,
            chunk_dim=chunk_dim,
            search_dim=search_dim,
            total_chunks=total_chunks or None,
            min_chunks=min_chunks,
            use_down_projection=use_down_projection,
            adjust_hash_buckets=adjust_hash_buckets,
            chunk_hashing=chunk_hashing,
            temperature=temperature,
            temperature_end=temperature_end or None,
            attention_scale=attention_scale,
            search_split=search_split,
            warmup_epochs=warmup_epochs,
            logit_lr=logit_lr,
        ),
        model_settings,
        fit_settings,
        recipes.RunOff(epochs=run_off_epochs, by_id=by_id) if run_off else None,
        resume=resume,
    )
    _say_searched(out, policy.provenance["winner"], policy)


def _refuse_idle_warmup(context: typer.Context, search_split: str) -> None:
    if search_split == "train":
        beside = "--search-split train"
        opt.refuse_ignored(context, ["warmup_epochs"], beside, "--search-split held-out")


def _say_searched(out: Path, winner: str, policy: Policy) -> None:
    from seo_rec import recipes

    typer.echo(f"{out / 'policy.json'}: {winner}, {recipes.describe(policy)}")
    if policy.dropped:
        typer.echo(f"dropped features: {', '.join(policy.dropped)}")


@app.command()
def apply(
    policy: Annotated[Path, typer.Argument(help="Policy of a search.")],
    strategy: Annotated[
        str, typer.Option(help="exact: the searched slots; round-robin: slots dealt in turn.")
    ],
    out: Annotated[Path, typer.Option(help="The applied policy, a .json file.")],
    params: Annotated[
        int, typer.Option(help="Budget in parameters (0: the budget of the search).")
    ] = 0,
) -> None:
    """Turn a searched policy into the compact model of SEO stage 2, at an exact budget."""
    from seo_rec import recipes
    from seo_rec.apply import STRATEGIES
    from seo_rec.policy import Policy

    if strategy not in STRATEGIES:
        raise ValueError(f"--strategy {strategy!r}; allowed: {', '.join(STRATEGIES)}")
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out")
    searched = Policy.load(policy)
    applied = STRATEGIES[strategy](searched, params or recipes.budget_of(searched))
    won = strategy == "round-robin" and searched.provenance.get("winner", "seo") != "seo"
    if won and applied != searched:
        typer.echo(
            "note: this policy won a run-off as it is; dealing its slots anew gives one that was "
            "not validated (--strategy exact keeps it)",
            err=True,
        )
    applied.save(out)
    typer.echo(f"{out}: {applied.num_params} parameters, {recipes.describe(applied)}")


@app.command()
def train(
    context: typer.Context,
    data: opt.Data,
    out: opt.Out,
    policy: Annotated[Path | None, typer.Option(help="Policy to train.")] = None,
    method: Annotated[
        str, typer.Option(help="Or a method by name, at --params: monolithic, separate, ...")
    ] = "",
    params: Annotated[int, typer.Option(help="Budget of --method, in parameters.")] = 96_000,
    dim: opt.Dim = 16,
    chunk_dim: opt.ChunkDim = 8,
    backbone: opt.Backbone = "mlp",
    interaction: opt.InteractionText = "",
    hidden: opt.Hidden = "256,128",
    dropout: opt.Dropout = 0.0,
    epochs: opt.Epochs = 20,
    patience: opt.Patience = 2,
    batch_size: opt.BatchSize = 2048,
    lr: opt.Lr = 2e-3,
    optimizer: opt.Optimizer = "adam",
    average: opt.Average = 0.998,
    l2: opt.L2 = 0.0,
    warmup_steps: opt.Warmup = 0,
    mlet_dim: opt.MletDim = 0,
    mlet_std: opt.MletStd = 0.25,
    exact_below: opt.ExactBelow = 0,
    same_hash: opt.SameHash = None,
    checkpoint_every: opt.CheckpointEvery = 0,
    plan: opt.PlanFile = None,
    weights: Annotated[
        Path | None, typer.Option(help="Go on from the weights.npz of a search of this policy.")
    ] = None,
    seed: opt.Seed = 0,
    threads: opt.Threads = 0,
    resume: opt.Resume = False,
) -> None:
    """Train a policy (or a plain method) from scratch; OUT/result.json holds the outcome."""
    opt.set_threads(threads)
    from seo_rec import recipes
    from seo_rec.policy import Policy

    if (policy is None) == (not method):
        raise ValueError("give either --policy FILE or --method NAME")
    if policy:
        of_method = ["params", "dim", "chunk_dim", "exact_below", "same_hash"]
        opt.refuse_ignored(context, of_method, "--policy", "--method")
    elif method != "multi-size":
        opt.refuse_ignored(context, ["chunk_dim"], f"--method {method}", "--method multi-size")
    if method == "collisionless":
        of_budget = ["params", "exact_below", "same_hash"]
        opt.refuse_ignored(context, of_budget, "--method collisionless", "methods that share rows")
    chosen = (
        Policy.load(policy)
        if policy
        else recipes.method_policy(
            method,
            data,
            params,
            dim,
            chunk_dim,
            seed,
            exact_below,
            opt.groups(same_hash, "--same-hash"),
        )
    )
    run = recipes.train(
        data,
        chosen,
        out,
        replace(
            opt.model_settings(backbone, interaction, hidden, dropout),
            mlet=opt.mlet(mlet_dim, mlet_std, context),
        ),
        opt.fit_settings(
            epochs,
            patience,
            batch_size,
            lr,
            optimizer,
            average,
            l2,
            seed,
            warmup_steps,
            checkpoint_every,
        ),
        method=method or "policy",
        resume=resume,
        plan=plan,
        weights=weights,
    )
    typer.echo(
        f"{out}: {run.embedding_params} parameters, validation AUC {run.val_auc:.5f}, "
        f"test AUC {run.test_auc:.5f}, log loss {run.test_logloss:.5f}, {run.epochs} epochs of "
        f"{run.seconds_per_epoch:.1f} s"
    )


@app.command(name="eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Finished training run.")],
    data: opt.Data,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    quantize: Annotated[
        int, typer.Option(help="8: tables of eight bits, a scale per row (0: float32).")
    ] = 0,
    threads: opt.Threads = 0,
) -> None:
    """Evaluate a trained model on a split: AUC, log loss, normalised entropy, calibration."""
    opt.set_threads(threads)
    import json

    from seo_rec import recipes

    if quantize:
        typer.echo(json.dumps(recipes.evaluate_quantized(run, data, split, quantize), indent=1))
        return
    typer.echo(json.dumps(asdict(recipes.evaluate_run(run, data, split)), indent=1))


@app.command()
def compare(
    context: typer.Context,
    data: Annotated[list[Path], typer.Argument(help="Prepared data set, or one for each seed.")],
    out: opt.Out,
    methods: Annotated[str, typer.Option(help="Comma-separated names; see docs/methods.md.")] = (
        "separate,monolithic,multi-size,seo-exact,seo-rr,seo"
    ),
    params: Annotated[int, typer.Option(help="Budget in parameters, a multiple of --dim.")] = (
        96_000
    ),
    budget_of: opt.BudgetOf = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 5,
    first_seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    dim: opt.Dim = 16,
    chunk_dim: opt.ChunkDim = 8,
    search_dim: opt.SearchDim = 32,
    min_chunks: opt.MinChunks = 1,
    total_chunks: opt.TotalChunks = 0,
    chunk_hashing: opt.ChunkHashing = "independent",
    use_down_projection: opt.DownProjection = False,
    adjust_hash_buckets: opt.AdjustBuckets = False,
    temperature: opt.Temperature = 1.0,
    temperature_end: opt.TemperatureEnd = 0.0,
    attention_scale: opt.AttentionScale = "mean-one",
    search_split: opt.SearchSplit = "train",
    warmup_epochs: opt.WarmupEpochs = 1,
    logit_lr: opt.LogitLr = 5e-3,
    run_off_epochs: opt.RunOffEpochs = 20,
    by_id: opt.ById = True,
    backbone: opt.Backbone = "mlp",
    interaction: opt.InteractionText = "",
    hidden: opt.Hidden = "256,128",
    dropout: opt.Dropout = 0.0,
    epochs: opt.Epochs = 20,
    patience: opt.Patience = 2,
    batch_size: opt.BatchSize = 2048,
    lr: opt.Lr = 2e-3,
    optimizer: opt.Optimizer = "adam",
    average: opt.Average = 0.998,
    l2: opt.L2 = 0.0,
    mlet_dim: opt.MletDim = 0,
    mlet_std: opt.MletStd = 0.25,
    exact_below: opt.ExactBelow = 0,
    same_hash: opt.SameHash = None,
    threads: opt.Threads = 0,
) -> None:
    """Train methods at one exact budget with several seeds; run again to go on where it stopped."""
    opt.set_threads(threads)
    from seo_rec import recipes, report

    rows = (
        opt.budget_rows_of(budget_of, dim, context, "params")
        if budget_of
        else opt.budget_rows(params, dim)
    )
    recipes.compare(comparison_of(context, rows), out)
    report.print_comparison([out])


def comparison_of(context: typer.Context, budget_rows: int) -> Comparison:
    """What the options of ``compare`` ask for; ``frontier`` has them too."""
    from seo_rec import recipes
    from seo_rec.search.seo import SeoSettings

    given = SimpleNamespace(**context.params)
    _refuse_idle_warmup(context, given.search_split)
    names = tuple(name.strip() for name in given.methods.split(",") if name.strip())
    _say_idle_options(context, tuple(name.removesuffix("+mlet") for name in names))
    if not any(name.endswith("+mlet") for name in names):
        beside = f"--methods {given.methods}"
        opt.refuse_ignored(context, ["mlet_dim", "mlet_std"], beside, "a method ending in +mlet")
    return recipes.Comparison(
        data=tuple(Path(d) for d in given.data),
        methods=names,
        settings=SeoSettings(
            budget_rows=budget_rows,
            dim=given.dim,
            chunk_dim=given.chunk_dim,
            search_dim=given.search_dim,
            total_chunks=given.total_chunks or None,
            min_chunks=given.min_chunks,
            use_down_projection=given.use_down_projection,
            adjust_hash_buckets=given.adjust_hash_buckets,
            chunk_hashing=given.chunk_hashing,
            temperature=given.temperature,
            temperature_end=given.temperature_end or None,
            attention_scale=given.attention_scale,
            search_split=given.search_split,
            warmup_epochs=given.warmup_epochs,
            logit_lr=given.logit_lr,
        ),
        seeds=given.seeds,
        first_seed=given.first_seed,
        model=opt.model_settings(given.backbone, given.interaction, given.hidden, given.dropout),
        run_off=recipes.RunOff(epochs=given.run_off_epochs, by_id=given.by_id),
        fit=opt.fit_settings(
            given.epochs,
            given.patience,
            given.batch_size,
            given.lr,
            given.optimizer,
            given.average,
            given.l2,
            0,
        ),
        mlet=opt.mlet(given.mlet_dim, given.mlet_std, context),
        exact_below=given.exact_below,
        same_hash=opt.groups(given.same_hash, "--same-hash"),
    )


def _say_idle_options(context: typer.Context, methods: tuple[str, ...]) -> None:
    """Name the options that none of ``methods`` reads: methods asked for later may read them."""
    read = {"dim"} | ({"chunk_dim"} if "multi-size" in methods else set())
    if any(name.startswith("seo") for name in methods):
        read |= SEO_OPTIONS - {"run_off_epochs", "by_id"}
    if "seo" in methods:
        read |= {"run_off_epochs", "by_id"}
    if idle := opt.given(context, SEO_OPTIONS - read):
        typer.echo(f"note: none of {', '.join(methods)} reads {', '.join(idle)}", err=True)


@app.command(name="report")
def make_report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of searches, trainings, compares.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    force: Annotated[bool, typer.Option("--force", help="Replace a page that exists.")] = False,
) -> None:
    """Write one self-contained HTML page about runs."""
    from seo_rec import report

    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; give --force to replace it, or another --out")
    report.build(runs, out)
    typer.echo(f"report: {out}")


@app.command()
def demo(
    out: opt.Out = Path("runs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Small data, two epochs: only checks that all works.")
    ] = False,
    seed: opt.Seed = 0,
    threads: opt.Threads = 0,
) -> None:
    """The main job on synthetic data: prepare, search, apply, train, compare, report."""
    opt.set_threads(threads)
    from seo_rec import recipes, report

    recipes.demo(out, quick=quick, seed=seed)
    report.print_comparison([out / "compare"])
    report.build([out / "compare"], out / "report.html")
    typer.echo(f"report: {out / 'report.html'}")


app.command()(plan)
app.command()(doctor)
app.command()(opt.with_options_of(frontier, compare, without=("params", "budget_of")))
app.command(hidden=True, context_settings=FURTHER_OPTIONS)(job_search)
app.command(hidden=True, context_settings=FURTHER_OPTIONS)(job_applier)


def main() -> None:
    """Run the command line, in one process or as one of a launch."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        _told(app)
    else:
        run_and_leave(lambda: _told(_launched))


def _told(command: Callable[[], None]) -> None:
    """Run a command; a user's mistake gives one message and exit status 2."""
    try:
        command()
    except StackError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from seo_rec import errors  # imports torch: only once something went wrong

        if isinstance(error, errors.OtherRankError):
            sys.exit(2)  # the rank that failed says why
        if isinstance(error, errors.Preempted):
            if os.environ.get("RANK", "0") == "0":  # all ranks stop together
                typer.echo(str(error), err=True)
            sys.exit(EXIT_PREEMPTED)
        if not isinstance(error, errors.USER_ERRORS):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def _launched() -> None:
    """Run the command in every process of a launch; rank 0 alone writes to the terminal.

    A mistake that all ranks find is said by rank 0; what one rank alone finds, by that rank.
    """
    from seo_rec.errors import USER_ERRORS, OtherRankError
    from seo_rec.train import launched, said_by_first

    with launched() as ranks:
        if not ranks.first:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  until the process ends
        try:
            app()
        except USER_ERRORS as error:
            if said_by_first(ranks, str(error)):
                raise OtherRankError(str(error)) from error
            raise


if __name__ == "__main__":
    main()
