"""The names of the files and folders of a run; :mod:`seo_rec.runs` draws the layouts."""

from __future__ import annotations

from pathlib import Path

# of every run
RUN_FILE = "run.json"
SETTINGS_FILE = "settings.json"
POLICY_FILE = "policy.json"

# of a training
RESULT_FILE = "result.json"
METRICS_FILE = "metrics.jsonl"
GROUPS_FILE = "groups.json"  # quality by group, if it was measured
TRAINED_FILE = "trained.json"  # the policy with rows of candidates, if it has any
COUNTS_FILE = "counts.npz"  # decayed counts of the ids of features with a vocabulary
CHECKPOINTS_FOLDER = "checkpoints"
BEST_FOLDER = "best"
COLLAPSED_FOLDER = "collapsed"  # best weights as they are served, where they were trained otherwise
BOARD_FOLDER = "tensorboard"

# of a replay
REPLAY_FILE = "replay.json"
DAYS_FOLDER = "days"
PERIODS_FOLDER = "periods"  # the steps that one data set was cut into

# of a search
SEARCH_FILE = "search.json"
SEARCHED_FILE = "searched.json"  # the policy that the search itself decided, beside the winner
WEIGHTS_FILE = "weights.npz"
CANDIDATES_FOLDER = "candidates"
WORK_FOLDER = "work"
ATTENTIONS_FOLDER = "attentions"  # below work, as the next one
SCORES_FOLDER = "scores"

# of a comparison
RESULTS_FILE = "results.jsonl"
RUNS_FOLDER = "runs"
SEARCHES_FOLDER = "searches"
METHODS_FILE = "methods.json"  # how every family of methods is set up

# of a tuning
JOURNAL_FILE = "journal.log"  # of Optuna: the trials, one JSON object in a line
TUNE_FILE = "tune.json"
TUNED_FILE = "tuned.json"  # the best settings, for --config
TRIALS_FOLDER = "trials"
OWNERS_FOLDER = "owners"  # locks of the processes that train trials
TUNINGS_FOLDER = "tunings"  # of a comparison whose methods are tuned

# of a frontier
INFEASIBLE_FILE = "infeasible.json"
UNBUDGETED_FOLDER = "unbudgeted"
FRONTIER_FILE = "frontier.json"
FRONTIER_PICTURE = "frontier.png"


def training_folder(comparison: Path, method: str, seed: int) -> Path:
    """Where a comparison trains a method with a seed."""
    return comparison / RUNS_FOLDER / f"{method}-seed{seed}"


def search_folder(comparison: Path, method: str, seed: int) -> Path:
    """Where a comparison searches the policy of a method with a seed."""
    return comparison / SEARCHES_FOLDER / f"{method}-seed{seed}"


def work_folder(comparison: Path, family: str, seed: int) -> Path:
    """Where methods of one family keep the searches that they share within a comparison."""
    return comparison / WORK_FOLDER / f"{family}-seed{seed}"


def budget_folder(frontier: Path, budget: int, unit: str = "params") -> Path:
    """Where a frontier compares the methods at one budget, in ``params`` or in ``bytes``."""
    return frontier / f"{unit}-{budget}"


def trial_folder(tuning: Path, number: int) -> Path:
    """Where a tuning trains a trial."""
    return tuning / TRIALS_FOLDER / str(number)


def day_folder(replay: Path, day: str) -> Path:
    """Where a replay trains on a day."""
    return replay / DAYS_FOLDER / day
