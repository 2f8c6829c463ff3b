"""The named runs: train one model, search a policy, compare methods, the demonstration.

Every process of a launch calls them alike; rank 0 alone writes results.
"""

from __future__ import annotations

from seo_rec.recipes.comparing import (
    DEMO_METHODS,
    METHODS,
    UNTRAINED,
    Comparison,
    InfeasibleError,
    compare,
    demo,
    method_policy,
)
from seo_rec.recipes.folders import (
    POLICY_FILE,
    RESULT_FILE,
    RUN_FILE,
    SEARCH_FILE,
    Run,
    RunError,
    command_line,
    describe,
    open_run,
    read_runs,
)
from seo_rec.recipes.frequency import frequency
from seo_rec.recipes.frontier import frontier, read_budgets
from seo_rec.recipes.frontier import jobs as frontier_jobs
from seo_rec.recipes.search_by import search_by
from seo_rec.recipes.searching import (
    RunOff,
    Searched,
    budget_of,
    candidates,
    paper_policy,
    search,
    search_attention,
)
from seo_rec.recipes.sharding import topology_here
from seo_rec.recipes.training import (
    Trained,
    evaluate_quantized,
    evaluate_run,
    labels_of,
    load_trained,
    train,
    train_model,
)

__all__ = [
    "DEMO_METHODS",
    "METHODS",
    "POLICY_FILE",
    "RESULT_FILE",
    "RUN_FILE",
    "SEARCH_FILE",
    "UNTRAINED",
    "Comparison",
    "InfeasibleError",
    "Run",
    "RunError",
    "RunOff",
    "Searched",
    "Trained",
    "budget_of",
    "candidates",
    "command_line",
    "compare",
    "demo",
    "describe",
    "evaluate_quantized",
    "evaluate_run",
    "frequency",
    "frontier",
    "frontier_jobs",
    "labels_of",
    "load_trained",
    "method_policy",
    "open_run",
    "paper_policy",
    "read_budgets",
    "read_runs",
    "search",
    "search_attention",
    "search_by",
    "topology_here",
    "train",
    "train_model",
]
