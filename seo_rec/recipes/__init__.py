"""The named runs: train one model, search a policy, compare methods, the demonstration.

In: an opened data set, a policy or the name of a method, settings. Out: a run folder
(:mod:`seo_rec.runs`) and its record. Begin with :func:`train`; :func:`search` decides a policy
first, and :func:`compare`, :func:`frontier` and :func:`replay` call both. Commands do no more than
call these functions.

Every process of a launch calls them alike; rank 0 alone writes results.
"""

from __future__ import annotations

from seo_rec.recipes.comparing import compare, measure_groups
from seo_rec.recipes.comparison import Comparison
from seo_rec.recipes.comparison_checks import InfeasibleError, stores_ids
from seo_rec.recipes.continuing import Continued, change_lines, continued
from seo_rec.recipes.demonstration import demo
from seo_rec.recipes.evaluation import (
    evaluate_served,
    frequency,
    load_trained,
)
from seo_rec.recipes.frontier import frontier, read_budgets, read_byte_budgets
from seo_rec.recipes.frontier import jobs as frontier_jobs
from seo_rec.recipes.groups import Grouping
from seo_rec.recipes.replayed import Day, Replayed, read_replay
from seo_rec.recipes.replaying import replay
from seo_rec.recipes.searching import search
from seo_rec.recipes.steps import day_folders, steps_of
from seo_rec.recipes.training import OWN_BUDGET, method_policy, train

__all__ = [
    "OWN_BUDGET",
    "Comparison",
    "Continued",
    "Day",
    "Grouping",
    "InfeasibleError",
    "Replayed",
    "change_lines",
    "compare",
    "continued",
    "day_folders",
    "demo",
    "evaluate_served",
    "frequency",
    "frontier",
    "frontier_jobs",
    "load_trained",
    "measure_groups",
    "method_policy",
    "read_budgets",
    "read_byte_budgets",
    "read_replay",
    "replay",
    "search",
    "steps_of",
    "stores_ids",
    "train",
]
