"""Searches: each looks at data and writes a policy.

SEO has its own path (:mod:`seo_rec.recipes.searching`): an attention, candidates and a run-off.
The searches in ``SEARCHES`` share one form,
``(data, settings, model_settings, fit_settings, out) -> Found``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from seo_rec.model import ModelSettings
from seo_rec.search.autodim import AutoDimSettings, autodim
from seo_rec.search.dimgrow import DimGrowSettings, dimgrow
from seo_rec.search.found import Found
from seo_rec.search.mixed_dimension import MixedDimensionSettings, mixed_dimension
from seo_rec.search.no_search import NoSearchSettings, no_search
from seo_rec.search.optembed import OptEmbedSettings, optembed
from seo_rec.search.sseds import SsedsSettings, sseds
from seo_rec.train import FitSettings

__all__ = ["SEARCHES", "Found", "Search", "SearchFunction"]


class SearchFunction(Protocol):
    """Finds a policy.

    Args:
        data: prepared data set.
        settings: an instance of the search's own settings.
        model_settings, fit_settings: of the model that the search trains, if it trains one.
        out: folder for checkpoints, from which an interrupted search goes on; None: none.
    """

    def __call__(
        self,
        data: Path,
        settings: Any,
        model_settings: ModelSettings,
        fit_settings: FitSettings,
        out: Path | None = None,
    ) -> Found: ...


class Search(NamedTuple):
    """A search's settings, a frozen dataclass with a field ``params`` (the budget), and itself."""

    settings: type[Any]
    run: SearchFunction


SEARCHES: dict[str, Search] = {
    "dimgrow": Search(DimGrowSettings, dimgrow),
    "autodim": Search(AutoDimSettings, autodim),
    "sseds": Search(SsedsSettings, sseds),
    "optembed": Search(OptEmbedSettings, optembed),
    "mixed-dimension": Search(MixedDimensionSettings, mixed_dimension),
    "no-search": Search(NoSearchSettings, no_search),
}
