"""``settings.json``: the options of the command that made a run folder, to start from again.

``{"command": "search", "options": {"data": "data/clicks", "params": 96000, ...}}``: the names of
the options are those of the command line, with underscores. Everything that decides the run is
there, and paths are absolute, so ``seo-rec COMMAND --config settings.json --out NEW`` repeats it
from any folder.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seo_rec.files import write_json
from seo_rec.runs.layout import SETTINGS_FILE

TUNED = "tuned"  # in place of a command: options that a tuning found, for every command


@dataclass(frozen=True)
class CommandSettings:
    """A command and its options.

    Args:
        command: Its name, such as ``search`` or ``analyze collisions``, or :data:`TUNED`.
        options: Values that JSON can hold, by the name of the option.
    """

    command: str
    options: Mapping[str, Any]


_of_this_command: ContextVar[tuple[Path, CommandSettings] | None] = ContextVar(
    "settings of the command that runs", default=None
)


@contextmanager
def command_settings(out: Path, settings: CommandSettings) -> Iterator[None]:
    """Within the block whoever claims the run folder ``out`` leaves ``settings`` in it."""
    before = _of_this_command.set((out, settings))
    try:
        yield
    finally:
        _of_this_command.reset(before)


def write_command_settings(out: Path) -> None:
    """Write ``out/settings.json`` if a command runs that has ``out`` for its run folder."""
    running = _of_this_command.get()
    if running is not None and running[0] == out:
        document = {"command": running[1].command, "options": dict(running[1].options)}
        write_json(out / SETTINGS_FILE, document)


def read_command_settings(path: Path) -> CommandSettings:
    """Read a ``settings.json``.

    Raises:
        ValueError: The file is not one, or is a folder; the message says why.
        FileNotFoundError: There is no such file.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder; name the file in it, as {path}/{SETTINGS_FILE}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such file; a run folder has a {SETTINGS_FILE}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a settings file, it is no JSON ({error})") from error
    fits = isinstance(document, dict) and set(document) == {"command", "options"}
    if not fits or not isinstance(document["options"], dict):
        raise ValueError(
            f"{path}: not a settings file; it must be an object with a command and its options, "
            f"as the {SETTINGS_FILE} of a run folder is"
        )
    return CommandSettings(str(document["command"]), document["options"])


def repeat_command(out: Path, new: str = "NEW") -> str | None:
    """The command that repeats the run in ``out``, for people to copy; None if it has no settings.

    Args:
        out: The run folder.
        new: What stands for the folder of the repetition.
    """
    path = out / SETTINGS_FILE
    try:
        command = read_command_settings(path).command
    except (ValueError, OSError):
        return None
    words = ["seo-rec", *command.split(), "--config", str(path.absolute()), "--out", new]
    return shlex.join(words)
