"""Run folders: the names of their files, the records in them, who owns one, and reading them back.

In: what a run was asked, and what came out of it. Out: files, and later records read from them.
Begin with :mod:`~seo_rec.runs.layout`, the names; :func:`claim_run` opens a folder, and
:mod:`~seo_rec.runs.reading` reads finished ones.

Everything that trains or searches writes a run folder; everything that compares, reports or resumes
reads one. What they agree on is defined here and nowhere else::

    TRAINING/    run.json (kind train)     settings.json  policy.json  result.json  metrics.jsonl
                 groups.json  counts.npz  trained.json  checkpoints/  best/
                 collapsed/  tensorboard/
    SEARCH/      run.json (kind search)    settings.json  policy.json  searched.json  search.json
                 candidates/<name>.json  weights.npz  work/attentions/  work/scores/
    COMPARISON/  run.json (kind compare)   settings.json  results.jsonl  methods.json
                 runs/<method>-seed<k>/: a TRAINING each
                 searches/<method>-seed<k>/: a SEARCH each          work/
                 tunings/<method>-seed<k>/: a TUNING each, of a tuned comparison
    FRONTIER/    run.json (kind frontier)  settings.json  frontier.json  frontier.png
                 infeasible.json  params-<N>/ and unbudgeted/: a COMPARISON each
    TUNING/      run.json (kind tune)      settings.json  journal.log  tune.json  tuned.json
                 policy.json  owners/
                 trials/<number>/: a TRAINING each; the best one is finished
    REPLAY/      run.json (kind replay)    settings.json  replay.json  scores/<day>.json
                 days/<day>/: a TRAINING each      periods/<day>/: data that --by has cut

``run.json`` says what was asked, ``result.json`` and ``search.json`` what came out of it; a folder
without the latter is unfinished. ``settings.json`` holds the options of the command that made it.
"""

from __future__ import annotations

from seo_rec.runs.claim import RunError, claim_run, command_line
from seo_rec.runs.records import (
    Run,
    SearchCost,
    SearchRecord,
    describe,
    precision_note,
    read_runs,
    types_of,
)

__all__ = [
    "Run",
    "RunError",
    "SearchCost",
    "SearchRecord",
    "claim_run",
    "command_line",
    "describe",
    "precision_note",
    "read_runs",
    "types_of",
]
