"""Scores of raw rows from a package, in one process, by many threads if wanted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from seo_rec.places import place
from seo_rec.schema import DataError
from seo_rec.serve import fast
from seo_rec.serve.archive import unpacked
from seo_rec.serve.bags import Floats, Inputs, RowError
from seo_rec.serve.layout import (
    ALL_FILES,
    EXAMPLES,
    GOLDEN_TOLERANCE,
    ONNX_FILE,
    PackageError,
)
from seo_rec.serve.package import Package, read_package
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.scorer import NumpyScorer, scores_of

ENGINES = ("auto", "onnxruntime", "numpy")
ROWS = 8192  # scored at a time, so that memory stays bounded


class Scorer(Protocol):
    """What gives logits; several threads may use it at once."""

    def logits(self, inputs: Inputs) -> Floats:
        """float32 (B,), or (B, T) of T labels."""
        ...


class Predictor:
    """Scores raw rows as the trained model would; see :meth:`load`.

    Args:
        package: The package to score by.
        scorer: What computes the logits.
    """

    def __init__(self, package: Package, scorer: Scorer) -> None:
        self.package, self.scorer = package, scorer
        self.preparation = package.preparation

    @classmethod
    def load(cls, path: Path | str, engine: str = "auto", threads: int = 0) -> Predictor:
        """Open a package, check all of its files, and score its golden rows.

        The tables are mapped into memory: pages are read when rows of them are used.

        Args:
            path: The folder of the package, or its tar file; or the URL of one, which is copied to
                a temporary folder first.
            engine: What computes the scores: ``onnxruntime``, ``numpy``, or ``auto``, which takes
                ONNX Runtime if it is installed and the package holds its graph.
            threads: That ONNX Runtime uses for one call; 0 takes one for each core that the process
                may run on.

        Raises:
            PackageError: It is not a package, is damaged, or scores its golden rows otherwise.
            RemoteError: The URL cannot be read.
            ValueError: There is no such engine, or it is not installed.
        """
        if engine not in ENGINES:
            raise ValueError(f"engine {engine!r}; allowed: {', '.join(ENGINES)}")
        if engine == "onnxruntime" and not fast.is_installed():
            raise ValueError("engine 'onnxruntime' is not installed: pip install onnxruntime")
        with unpacked(path, ALL_FILES) as folder:
            try:
                return cls._opened(folder, engine, threads)
            except PackageError as error:  # it names the copy of a URL or of a tar file
                raise PackageError(str(error).replace(str(folder), str(place(path)))) from error

    @classmethod
    def _opened(cls, folder: Path, engine: str, threads: int) -> Predictor:
        package = read_package(folder)
        if engine == "auto":
            ready = fast.is_installed() and ONNX_FILE in package.files
            engine = "onnxruntime" if ready else "numpy"
        scorer: Scorer = NumpyScorer(package)
        if engine == "onnxruntime":
            scorer = fast.OnnxScorer(package, threads)
        predictor = cls(package, scorer)
        predictor.verify()
        return predictor

    def __call__(self, rows: Any, weights: Mapping[str, Any] | None = None) -> Floats:
        """The scores of raw rows, float32 (B,), in their order.

        A package of several labels gives float32 (B, T), a column for each of
        :attr:`Package.labels`.

        Args:
            rows: A dict of lists, an Arrow table or record batch, or a pandas or polars frame,
                with the raw columns; others are not read.
            weights: By name of a categorical or multivalent column, a factor for the vector of
                each of its ids: numbers, or lists as long as the lists of values.

        Raises:
            DataError: A column is missing or cannot be read, or a row cannot be scored; a
                :class:`RowError` knows the row.
        """
        return self.score(self._encoded(rows, weights))

    def _encoded(self, rows: Any, weights: Mapping[str, Any] | None) -> Inputs:
        """Raw rows as ids and numbers, in the way that is faster for so many."""
        few_rows = self.preparation.few_rows
        read = self._without_others(rows) if isinstance(rows, Mapping) else as_table(rows)
        few = None if weights else few_rows.read(read)
        if few is not None:
            return few_rows.encode([few])
        return self.preparation.encode(as_table(read), weights)

    def _without_others(self, rows: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """The columns that the model reads; all of them if one lacks, for the message."""
        names = {c.name for c in self.preparation.columns}
        read = {name: cells for name, cells in rows.items() if str(name) in names}
        return read if len(read) == len(names) else rows

    def score(self, inputs: Inputs) -> Floats:
        """The scores of rows that are prepared already, float32 (B,), or (B, T) of T labels."""
        labels = self.package.labels
        found = np.empty((len(inputs), *([len(labels)] if labels else [])), np.float32)
        for start in range(0, len(inputs), ROWS):
            piece = inputs if len(inputs) <= ROWS else inputs.slice(start, start + ROWS)
            try:
                logits = self.scorer.logits(piece)
            except RowError as error:
                raise error.moved(start) from error
            except ValueError as error:
                at = f"rows {start} to {start + len(piece) - 1}"
                raise DataError(f"{at} cannot be scored: {error}") from error
            if logits.shape != (len(piece), *found.shape[1:]):
                raise DataError(
                    f"the package gives logits of shape {logits.shape}; its manifest names "
                    f"{len(labels) or 1} labels; export it again"
                )
            predicted = self.package.is_regression
            found[start : start + ROWS] = logits if predicted else scores_of(logits)
        if np.isnan(found).any():
            row = int(np.argwhere(np.isnan(found))[0][0])
            fix = "give smaller numbers, as the model was trained on"
            raise RowError(row, "score", "nan", "the score is not a number", fix)
        return found

    def verify(self) -> None:
        """PackageError unless the golden rows have the scores that they had when exported."""
        golden, path = self.package.golden, self.package.path
        try:
            encoded = self.preparation.encode(example_table(self.preparation, golden.examples))
        except (DataError, pa.ArrowException) as error:
            raise PackageError(f"{path}: its example rows cannot be prepared: {error}") from error
        expected = golden.inputs.slice(0, EXAMPLES)
        for name, bags in expected.columns.items():
            found = encoded.columns[name]
            if not (
                np.array_equal(found.ids, bags.ids)
                and np.array_equal(found.counts(), bags.counts())
            ):
                raise PackageError(
                    f"{path}: the example cells of column {name!r} become other ids than when the "
                    "package was exported; this release prepares values in another way"
                )
        if not np.allclose(encoded.dense_BN, expected.dense_BN, rtol=1e-6, atol=1e-6):
            raise PackageError(f"{path}: the example cells become other numbers than when exported")
        try:
            off = np.abs(self.score(golden.inputs) - golden.scores).max()
        except (ValueError, IndexError, MemoryError) as error:
            raise PackageError(f"{path}: its golden rows cannot be scored: {error}") from error
        allowed = GOLDEN_TOLERANCE
        if self.package.is_regression:  # numbers of any size, not of 0 to 1
            allowed *= 1 + float(np.abs(golden.scores).max())
        if not off <= allowed:
            raise PackageError(
                f"{path}: scores of golden rows are off by {off:.2g}; allowed: {allowed:.2g}; "
                "export the package again"
            )


def as_table(rows: Any) -> Any:
    """An Arrow table of a dict of lists, a table, a batch or a frame.

    Raises:
        DataError: It is none of these, or a column mixes types.
    """
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    try:
        if isinstance(rows, Mapping):
            return pa.table({str(name): _array(name, values) for name, values in rows.items()})
        if hasattr(rows, "__arrow_c_stream__"):
            return pa.table(rows)
    except RowError:
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"the rows are not columns of equal length and type: {error}") from error
    raise DataError(
        f"rows of type {type(rows).__name__}; allowed: a dict of lists, an Arrow table, a pandas "
        "or polars frame"
    )


def _array(name: Any, values: Any) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise DataError(f"column {name!r} is {type(values).__name__}; allowed: a list of values")
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _too_large(name, values) or DataError(f"column {name!r}: {error}") from error


def _too_large(name: Any, values: Any) -> RowError | None:
    """Where the first whole number is that no column can hold; None if there is none."""
    for row, cell in enumerate(values):
        for number in cell if isinstance(cell, list | tuple) else [cell]:
            if type(number) is int and not -(2**63) <= number < 2**64:
                why, fix = "a whole number beyond 64 bits", "give text, or correct the cell"
                digits = str(number)[:24] if number.bit_length() < 4_000 else "thousands of digits"
                return RowError(row, str(name), digits, why, fix)
    return None


def example_table(preparation: Preparation, examples: Mapping[str, list[str | None]]) -> Any:
    """The example cells as an Arrow table, with numbers where a rule needs them."""
    columns = {}
    for c in preparation.columns:
        cells = pa.array(examples[c.name], pa.string())
        is_number = c.kind == "numeric" or c.rule in ("bucket", "hour_of_day", "quantiles")
        columns[c.name] = cells.cast(pa.float64()) if is_number else cells
    return pa.table(columns)
