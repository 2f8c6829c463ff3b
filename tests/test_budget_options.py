"""Options that several commands have alike are the same options in each of them."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
import typer

from seo_rec.cli.budget_options import BUDGET_OPTIONS, PLAIN_METHOD, PlainMethodOptions
from seo_rec.cli.main import app
from seo_rec.cli.parameters import number_of_params

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_commands_have_the_options_alike() -> None:
    """The same names, defaults and help: of a budget in five commands, of a method in three.

    But a search may decide the precision itself.
    """
    for name in PLAIN_METHOD.names:
        searching = ("search", "compare") if name in BUDGET_OPTIONS.names else ()
        if name == "precision":
            searching = ("compare",)
        found = [
            (p.opts, p.default, p.help)
            for command in ("train", "tune", "replay", *searching)
            for p in COMMANDS[command].params
            if p.name == name
        ]
        assert len(found) == 3 + len(searching)
        assert found == [found[0]] * len(found)


@pytest.mark.parametrize(
    ("text", "number"),
    [("96000", 96_000), ("96k", 96_000), (" 1.5Mi", 1_572_864), ("0", 0), (96, 96)],
    ids=str,
)
def test_parameters_are_written_as_bytes_are(text: str | int, number: int) -> None:
    assert number_of_params(text) == number


@pytest.mark.parametrize("text", ["96kB", "1.5", "k", "", "x", "1e3", "0.0001k"])
def test_what_is_no_number_of_parameters_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no number of parameters; allowed: a whole"):
        number_of_params(text)


def test_what_was_read_becomes_one_object() -> None:
    """Every field is a parameter by its name, with its default; the budget is told together."""
    parameters = PLAIN_METHOD.parameters()
    assert [p.name for p in parameters] == [f.name for f in fields(PlainMethodOptions)]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)
    values = {p.name: p.default for p in parameters}
    assert PLAIN_METHOD.read(values) == PlainMethodOptions()
    options = PLAIN_METHOD.read({**values, "params": 96, "precision": "int8", "method": "separate"})
    assert (options.wish.params, options.wish.precision, options.wish.bytes_) == (96, "int8", None)
    assert options.method == "separate"
