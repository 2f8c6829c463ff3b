"""``--config FILE``: start from the options of another run, or from the best ones of a tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from seo_rec.cli.assignments import merged
from seo_rec.runs.command_settings import TUNED, CommandSettings, read_command_settings

# parameters that do not decide what a run does
NOT_KEPT = frozenset({"out", "config", "resume", "settings", "scheduler", "submit", "help"})


def start_from(context: typer.Context, value: Path | None) -> Path | None:
    """Callback of ``--config``: the file's values become the defaults of the command.

    Raises:
        ValueError: The file is of another command, names an option that this one lacks, or gives
            a list to an option of one value, or one value to an option that takes several.
    """
    if value is None:
        return None
    read, here = read_command_settings(value), command_name(context)
    if read.command not in (here, TUNED):
        raise ValueError(
            f"--config {value} has the settings of `seo-rec {read.command}`; allowed: settings of "
            f"`seo-rec {here}`"
        )
    names = dict(_kept(context))
    if unknown := sorted(set(read.options) - set(names)):
        raise ValueError(
            f"--config {value}: unknown options {', '.join(unknown)}; allowed: "
            f"{', '.join(sorted(names))}"
        )
    _check_values(context, value, {names[key]: given for key, given in read.options.items()})
    context.default_map = {names[key]: given for key, given in read.options.items()}
    return value


def _check_values(context: typer.Context, path: Path, values: Mapping[str, Any]) -> None:
    """ValueError for a list where an option has one value, and the other way round."""
    declared = {parameter.name: parameter for parameter in context.command.params}
    for name, value in values.items():
        parameter, key = declared[name], name.rstrip("_")
        many = getattr(parameter, "multiple", False) or parameter.nargs != 1
        if many != isinstance(value, list):
            allowed = "a list" if many else "one value"
            raise ValueError(f"--config {path}: {key} is {value!r}; allowed: {allowed}")


def set_texts(context: typer.Context, texts: list[str] | None) -> list[str]:
    """What ``--set`` says; a setting on the command line replaces the same one of ``--config``."""
    return merged((context.default_map or {}).get("set_", []), texts or [])


def command_name(context: typer.Context) -> str:
    """The name of the command as it is typed, without the program's."""
    names: list[str] = []
    here: Any = context
    while here.parent is not None:
        names.insert(0, here.info_name or "")
        here = here.parent
    return " ".join(names)


def command_options(context: typer.Context, resolved: Mapping[str, Any]) -> CommandSettings:
    """The options of the command that runs, to be kept in its run folder.

    Args:
        context: Of the command.
        resolved: Values that take the place of those given, such as a budget read from a file;
            None leaves an option out.
    """
    options = {}
    for key, name in _kept(context):
        value = _plain(resolved[key] if key in resolved else context.params.get(name))
        if value is not None and value is not False and value not in ("", []):
            options[key] = value
    return CommandSettings(command_name(context), options)


def _kept(context: typer.Context) -> Iterator[tuple[str, str]]:
    """The key in a file and the name of each parameter that decides the run."""
    for parameter in context.command.params:
        if parameter.name and parameter.name not in NOT_KEPT:
            yield parameter.name.rstrip("_"), parameter.name


def _plain(value: Any) -> Any:
    """``value`` as JSON holds it; a path is absolute, so that it can be read from anywhere."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value.absolute()) if isinstance(value, Path) else value
