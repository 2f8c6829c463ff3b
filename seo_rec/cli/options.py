"""Options that are made from the fields of settings, and the settings that they become.

A command asks for settings in its signature, and its decorator says which of their fields are
options::

    @takes_settings(fit=FromSettings(FitSettings, TRAINING, (Option("epochs"), ...)))
    def train(data: Data, out: Out, fit: FitSettings) -> None: ...

An option takes its default and its help from the field, so each is said once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Protocol

import typer
from typer.core import TyperCommand

from seo_rec.cli.fields import Field, alternatives, fields_of, text_of, value_of
from seo_rec.process import without_collection

# panels of the help, in this order
PANELS = ("Data", "Budget", "Search", "Model", "Training", "Run")
DATA, BUDGET, SEARCH, MODEL, TRAINING, RUN = PANELS
FIELDS_OWN: Any = ...  # default of an option that has its field's


class PanelCommand(TyperCommand):
    """A command whose help has one panel of each kind, in the order of :data:`PANELS`.

    ``--help`` itself stands among the options of the run.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters in the order of their panels; typer shows panels as it meets them."""
        return sorted(super().get_params(ctx), key=lambda p: PANELS.index(p.rich_help_panel or RUN))

    def get_help_option(self, ctx: Any) -> Any:
        """The option ``--help``; typer's classes of it are not public."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = RUN  # type: ignore[attr-defined]
        return option


@dataclass(frozen=True)
class Option:
    """One option that sets one field of settings, or several alike.

    Args:
        name: Of the option; dashes take the place of underscores on the command line.
        fields: The fields that it sets; none is the field of the same name.
        help: A sentence in place of the first field's.
        default: A value in place of the first field's default.
        panel: A panel in place of the one that the other options have.
        unset: A value that leaves the fields to an option before it.
        word: A word in place of a value, and the default; the command says what it stands for.
    """

    name: str
    fields: tuple[str, ...] = ()
    help: str = ""
    default: Any = FIELDS_OWN
    panel: str = ""
    unset: Any = None
    word: str = ""

    @property
    def sets(self) -> tuple[str, ...]:
        return self.fields or (self.name,)


@dataclass(frozen=True)
class FromSettings:
    """Options that together become one settings object.

    Args:
        settings: The dataclass.
        panel: Where the help lists them.
        options: The fields that can be set on the command line, in the order of the help.
        build: Makes the object of the values of fields; by default the dataclass itself.
    """

    settings: type[Any]
    panel: str
    options: tuple[Option, ...]
    build: Callable[[dict[str, Any]], Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters of the command, in order."""
        return tuple(option.name for option in self.options)

    def parameters(self) -> list[inspect.Parameter]:
        """The options as typer reads them."""
        return [self._parameter(option) for option in self.options]

    def _parameter(self, option: Option) -> inspect.Parameter:
        field = fields_of(self.settings)[option.sets[0]]
        default = field.default if option.default is FIELDS_OWN else option.default
        kind = str if option.word else _typed_as(field)
        default = option.word or default
        written = f"--{option.name.replace('_', '-')}"
        declared = typer.Option(
            written,
            help=f"{option.help or field.help}.{_shown(default)}",
            show_default=False,  # it would take a line of its own
            rich_help_panel=option.panel or self.panel,
        )
        if kind is str and not isinstance(default, str):
            default = "" if default is None else text_of(default)
        return inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, declared],
        )

    def read(self, values: Mapping[str, Any]) -> Any:
        """The settings object of the values that typer has read."""
        found = {}
        for option in self.options:
            value = values[option.name]
            if (option.unset is not None and value == option.unset) or value == (option.word or ()):
                continue
            for name in option.sets:
                field = fields_of(self.settings)[name]
                written = f"--{option.name.replace('_', '-')}"
                if option.word:
                    found[name] = _of_text(value, field, written, option.word)
                else:
                    found[name] = _of_field(value, field, written)
        try:
            return (self.build or _call(self.settings))(found)
        except ValueError as error:
            raise ValueError(self._by_option(str(error))) from error

    def _by_option(self, said: str) -> str:
        """A message that begins with a field, as one that begins with the option that sets it."""
        name, _, rest = said.partition(" is ")
        setting = [option.name for option in self.options if name in option.sets]
        return f"--{setting[-1].replace('_', '-')} is {rest}" if setting and rest else said


def _shown(default: Any) -> str:
    """The default as the help says it; nothing of an empty one."""
    return "" if default in (None, "", ()) else f" (default: {text_of(default)})"


def _call(settings: type[Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda values: settings(**values)


def _typed_as(field: Field) -> Any:
    """The type that typer is told; it splits no text at commas."""
    return field.kind if field.kind in (int, float, str, bool) else str


def _of_field(value: Any, field: Field, written: str) -> Any:
    """The value of a field; settings written as text are left to ``build``."""
    if _typed_as(field) is field.kind or any(map(is_dataclass, alternatives(field.kind))):
        return value
    return value_of(value, field.kind, written)


def _of_text(value: Any, field: Field, written: str, word: str) -> Any:
    """The value of a field whose option also takes a word."""
    try:
        return value_of(str(value), field.kind, written)
    except ValueError as error:
        raise ValueError(f"{error}, or {word}") from None


class OptionGroup(Protocol):
    """Options that stand in the place of one parameter of a command."""

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters of the command, in order."""
        ...

    def parameters(self) -> list[inspect.Parameter]:
        """The options as typer reads them."""
        ...

    def read(self, values: Mapping[str, Any]) -> Any:
        """The value of the parameter, of the values that typer has read."""
        ...


def takes_settings(**groups: OptionGroup) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: each named parameter of a command is made of options.

    Args:
        groups: By the name of the parameter, in the place of which the options stand.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            group = groups.get(parameter.name)
            parameters += group.parameters() if group else [parameter]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            arguments = dict(values)
            for name, group in groups.items():
                read = {option: arguments.pop(option) for option in group.names}
                arguments[name] = group.read(read)
            command(**arguments)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def given(context: typer.Context, names: Iterable[str]) -> list[str]:
    """The parameters among ``names`` that the user gave, written as options.

    A parameter is given by the command line, or by ``--config`` if its value is not the default.
    Names of parameters that the command does not have are passed over.
    """
    declared = {parameter.name: parameter for parameter in context.command.params}
    here = sorted(name for name in names if name in declared)
    return [declared[name].opts[0] for name in here if is_given(context, declared[name])]


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether a parameter stands on the command line itself, not only in ``--config``."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def overridden(context: typer.Context, names: tuple[str, str]) -> str | None:
    """The one of two options that only ``--config`` gives, while the other one is typed.

    Args:
        context: The command.
        names: Two parameters that exclude each other, both of which have values.

    Returns:
        The name whose value does not count; None if both or neither are typed.
    """
    idle = [name for name in names if not is_typed(context, name)]
    return idle[0] if len(idle) == 1 else None


def is_given(context: typer.Context, parameter: Any) -> bool:
    """Whether a parameter was given; see :func:`given`."""
    source = context.get_parameter_source(parameter.name)
    if source is None or source.name not in ("COMMANDLINE", "DEFAULT_MAP"):
        return False
    value = context.params.get(parameter.name)
    return source.name == "COMMANDLINE" or value != parameter.default


def refuse_ignored(context: typer.Context, names: Iterable[str], beside: str, use: str) -> None:
    """ValueError if one of the options ``names``, which ``beside`` makes idle, was given.

    Args:
        context: Of the command.
        names: Of parameters of the command.
        beside: The option that makes them idle, as it is written.
        use: Where they are allowed.
    """
    if found := given(context, names):
        raise ValueError(f"{', '.join(found)} with {beside} would be ignored; allowed with {use}")


def load_stack(threads: int) -> None:
    """Import torch, TorchRec and the recipes, and set the number of CPU threads.

    Raises:
        ValueError: ``threads`` is below 0.
    """
    if threads < 0:
        raise ValueError(f"--threads {threads}; allowed: 0 or more")
    with without_collection():
        import torch

        import seo_rec.recipes  # noqa: F401  so that nothing is left to load slowly
    if threads:
        torch.set_num_threads(threads)
