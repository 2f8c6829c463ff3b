"""A path where a recipe expects an opened data set is refused in one line that names the fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.recipes.tuning import Tuning
from seo_rec.train import Training

RECIPES: dict[str, Callable[[Any], object]] = {
    "train": lambda data: recipes.train(data, None, "out", Training()),
    "search": lambda data: recipes.search("seo", data, "out", None, Training()),
    "method_policy": lambda data: recipes.method_policy("monolithic", data, 1000, 4),
    "continued": lambda data: recipes.continued("run", data),
    "evaluate_served": lambda data: recipes.evaluate_served("run", data, "test"),
    "frequency": lambda data: recipes.frequency(data, ["run"]),
    "read_budgets": lambda data: recipes.read_budgets("1000", data, 4),
    "Tuning": lambda data: Tuning(data, lambda dim: None, Training()),
    "Comparison": lambda data: recipes.Comparison((data,), ("monolithic",), 1000),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_refused(name: str, kind: Callable[[str], object], tmp_path: Path) -> None:
    """Whether anything is at the path does not matter: it is not opened here."""
    with pytest.raises(TypeError) as refused:
        RECIPES[name](kind(str(tmp_path)))
    assert str(refused.value) == (
        f"{name}: data is the path {str(tmp_path)!r}; allowed: an opened data set, such as "
        f"open_data({str(tmp_path)!r}) of seo_rec.data.dataset"
    )


def test_a_comparison_takes_a_tuple_of_data_sets(tiny_data: DataSet) -> None:
    """Neither one path nor one data set; a tuple of data sets is taken."""
    with pytest.raises(TypeError, match="Comparison: data is the path 'data'"):
        recipes.Comparison("data", ("monolithic",), 1000)
    with pytest.raises(TypeError, match=r"is one data set; allowed: a tuple of them, \(data,\)"):
        recipes.Comparison(tiny_data, ("monolithic",), 1000)
    assert recipes.Comparison((tiny_data,), ("monolithic",), 1000).data_of(3) is tiny_data
