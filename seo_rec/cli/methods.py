"""What the commands ask of a method: its settings, and how its names belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from seo_rec.recipes import RunOff
from seo_rec.search import SEARCHES
from seo_rec.search.dimgrow import adapt_of, check_adapt
from seo_rec.search.seo import SeoSettings


@dataclass(frozen=True)
class SeoSearchSettings(SeoSettings):
    """SEO's settings, with those of its run-off.

    Args:
        run_off: The run-off between candidates; none takes the top chunks of the attention.
    """

    run_off: RunOff | None = RunOff()

    @property
    def space(self) -> SeoSettings:
        """The settings without the run-off."""
        return SeoSettings(**{f.name: getattr(self, f.name) for f in fields(SeoSettings)})


@dataclass(frozen=True)
class MultiSizeSettings:
    """Settings of multi-size tables.

    Args:
        chunk_dim: Width of a table, in floats; a feature reads dim / chunk_dim rows.
    """

    chunk_dim: int = 8


KINDS: dict[str, type[Any]] = {
    "seo": SeoSearchSettings,
    "multi-size": MultiSizeSettings,
    **{name: search.settings for name, search in SEARCHES.items()},
}
SEARCH_NAMES = ("seo", *SEARCHES)


def search_kind(method: str) -> type[Any]:
    """The settings of a search.

    Raises:
        ValueError: There is no search of that name.
    """
    if method not in SEARCH_NAMES:
        raise ValueError(f"--method {method!r}; allowed: {', '.join(SEARCH_NAMES)}")
    return KINDS[method]


def search_settings(
    method: str, params: int, dim: int, backbone: str, given: Mapping[str, Any]
) -> Any:
    """The settings of a search at a budget: its defaults there, and what is given."""
    kind = search_kind(method)
    if method == "seo":
        settings = kind(**{"budget_rows": params // dim, "dim": dim, **given})
        if settings.search_split == "train" and "warmup_epochs" in given:
            raise ValueError(
                "warmup_epochs with search_split=train would be ignored; allowed with "
                "--set search_split=held-out"
            )
        return settings
    widest = dim if method == "no-search" else 2 * dim  # others need room above the mean
    defaults: dict[str, Any] = {"params": params, "max_dim": widest}
    if method == "dimgrow":
        defaults["adapt"] = adapt_of(backbone)
    if given.get("sparsity"):
        defaults["params"] = 0
    settings = kind(**{**defaults, **given})
    if method == "dimgrow":
        check_adapt(settings.adapt, backbone)
    return settings


def family_of(method: str) -> str:
    """The name before the dot of ``--set`` for a method of ``--methods``."""
    for family in ("seo", "multi-size"):
        if method == family or method.startswith(f"{family}-"):
            return family
    return method
