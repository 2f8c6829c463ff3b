"""A finished training run as a model of a Triton repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from seo_rec.export.package import Export, export_run
from seo_rec.files import new_folder
from seo_rec.serve.triton import PACKAGE_FOLDER, write_config


def export_triton(
    run: Path | str, out: Path | str, precision: str | None = None, data: Path | str | None = None
) -> Export:
    """Write the folder of a model; the folder that it is in is the repository.

    Args:
        run: See :func:`export_run`.
        out: The folder to make; its name is the model's.
        precision: See :func:`export_run`.
        data: See :func:`export_run`.

    Raises:
        DataError: The data are not there, or are others.
        FileExistsError: Something is at ``out``.
        RunError: The folder is not a finished training run.
        ValueError: The type cannot hold the numbers of a table.
    """
    out = Path(out)
    with new_folder(out) as folder:
        done = export_run(run, folder / PACKAGE_FOLDER, precision, data, ("onnx",))
        write_config(folder)
    return replace(done, path=out)
