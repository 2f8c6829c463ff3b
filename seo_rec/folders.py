"""What a path is, from the files that it holds, so that a wrong one is called by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seo_rec.places import RemotePath

# the file that tells a folder, and what the folder is; the first one that is there decides
_KINDS = (
    ("schema.json", "a prepared data set"),
    ("delta.json", "a delta of `seo-rec export --since`"),
    ("manifest.json", "a package of `seo-rec export`"),
    ("search.json", "a search; `seo-rec train DATA --policy {path}/policy.json` trains its policy"),
    ("frontier.json", "a frontier, whose trainings are under {path}"),
    ("results.jsonl", "a comparison, whose trainings are in {path}/runs"),
    ("tune.json", "a tuning, whose best training is in {path}/trials"),
    ("replay.json", "a replay, whose trainings are under {path}"),
    ("result.json", "a finished training run"),
    ("run.json", "an unfinished run; its command goes on, with --resume where it has that option"),
)


def but_is(path: Path | RemotePath) -> str:
    """The end of a message that says what ``path`` is not: ``", but a search; ..."``.

    Args:
        path: What the user gave.

    Returns:
        What is there instead; "" if nothing at the path tells.
    """
    if path.is_file():
        return ", but a file"
    for name, kind in _KINDS:
        if (path / name).is_file():
            return f", but {kind.format(path=path)}"
    return ""
