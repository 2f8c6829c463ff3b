"""Search a policy by any method of ``seo_rec.search.SEARCHES``."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from seo_rec.environment import stamp
from seo_rec.files import write_json
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.recipes.folders import POLICY_FILE, SEARCH_FILE, command_line, open_run
from seo_rec.recipes.weights import WEIGHTS_FILE, read_weights, save_weights
from seo_rec.schema import read_schema
from seo_rec.search import SEARCHES, Found
from seo_rec.train import FitSettings, ranks

log = logging.getLogger(__name__)


def search_by(
    method: str,
    data: Path,
    out: Path,
    settings: Any,
    model_settings: ModelSettings,
    fit_settings: FitSettings,
    *,
    resume: bool = False,
) -> Found:
    """Search a policy with ``method`` and write ``out/policy.json`` and ``out/search.json``.

    A finished search found in ``out`` is taken; an interrupted one goes on from its checkpoints in
    ``out/work``. Where training can go on from the search, its weights are in ``out/weights.npz``,
    the file that ``train(..., weights=...)`` takes.

    Args:
        settings: an instance of ``SEARCHES[method].settings``.

    Raises:
        RunError: ``out`` holds another run, or a run and ``resume`` is False.
        ValueError: unknown method, or the settings of another one.
    """
    if method not in SEARCHES:
        raise ValueError(f"method {method!r}; allowed: {', '.join(SEARCHES)}")
    if ranks().world_size > 1:
        raise ValueError(f"{method} in {ranks().world_size} processes; allowed: 1, only seo shards")
    kind = SEARCHES[method].settings
    if type(settings) is not kind:
        raise ValueError(f"settings {settings!r:.80} of {method}; allowed: a {kind.__name__}")
    asked = {
        "kind": "search",
        "method": method,
        "data": str(data),
        "data_fingerprint": read_schema(data).fingerprint,
        "settings": asdict(settings),
        "model": model_settings.as_json(),
        "fit": asdict(fit_settings),
    }
    open_run(out, asked, resume)
    if (out / SEARCH_FILE).exists():
        return _read(out)
    found = SEARCHES[method].run(data, settings, model_settings, fit_settings, out / "work")
    if found.policy.dropped:
        log.warning("the policy drops %s", ", ".join(found.policy.dropped))
    policy = replace(found.policy, provenance={**found.policy.provenance, "winner": method})
    policy.save(out / POLICY_FILE)
    if found.weights:
        save_weights(out / WEIGHTS_FILE, found.weights)
    write_json(
        out / SEARCH_FILE,
        {
            "method": method,
            "val_auc": found.val_auc,
            "seconds": found.seconds,
            "peak_bytes": found.peak_bytes,
            "params": policy.num_params,
            "record": found.record,
            "environment": stamp(),
            "command": command_line(),
        },
    )
    return replace(found, policy=policy)


def _read(out: Path) -> Found:
    read = json.loads((out / SEARCH_FILE).read_text())
    weights = out / WEIGHTS_FILE
    return Found(
        Policy.load(out / POLICY_FILE),
        read["val_auc"],
        read["seconds"],
        read["peak_bytes"],
        read["record"],
        read_weights(weights) if weights.exists() else {},
    )
