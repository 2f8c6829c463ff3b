"""Bodies of requests to Arrow tables, strictly; and scores to bodies of answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from seo_rec.files import first_line
from seo_rec.policy.strict_json import no_constant, no_duplicate_keys
from seo_rec.schema import DataError
from seo_rec.serve.bags import Floats
from seo_rec.serve.predict import score_columns
from seo_rec.serve.predictor import as_table
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column
from seo_rec.serve.server.arrow_messages import is_compressed

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
_SHOWN = 8  # names in a message
MAX_TEXT = 10_000  # bytes of one value; the time of the hash grows with the longest value


class RequestError(ValueError):
    """A request that is refused.

    Args:
        status: The HTTP status, 400 to 499.
        message: What is wrong, what is allowed, and how to correct it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Body:
    """The rows of a request.

    Args:
        rows: An Arrow table of raw columns, or few rows whose cells have been read.
        weights: By name of a column, factors for the vectors of its ids.
    """

    rows: Any
    weights: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.rows)


def read_body(
    kind: str, content: bytes, preparation: Preparation, max_rows: int, max_body: int
) -> Body:
    """The rows of a body.

    Args:
        kind: The media type, :data:`JSON` or :data:`ARROW`.
        content: The body.
        preparation: Which columns are read; others are left out.
        max_rows: How many rows a request may have.
        max_body: How many bytes its booleans may have, of which eight come in one byte of Arrow.

    Raises:
        RequestError: With status 400 if the body has another form, 413 if it has too many rows or
            booleans, 415 for another media type, and 422 if its columns cannot be scored.
    """
    if kind == JSON:
        return _json_body(content, preparation, max_rows)
    if kind == ARROW:
        table = _arrow_table(content, preparation, max_rows, max_body)
        return Body(preparation.few_rows.read(table) or checked(table, preparation), {})
    raise RequestError(415, f"Content-Type is {kind[:80]!r}; allowed: {JSON}, {ARROW}")


def rows_of(columns: Mapping[str, Any], preparation: Preparation) -> Any:
    """Few rows or an Arrow table of columns, which have the names of the preparation's.

    Raises:
        RequestError: With status 422: the columns are not of equal length and type, or a value is
            too long.
    """
    if (few := preparation.few_rows.read(columns)) is not None:
        return few
    return _table(columns, preparation)


def _table(columns: Mapping[str, Any], preparation: Preparation) -> Any:
    try:
        table = as_table(columns)
    except DataError as error:
        raise RequestError(422, str(error)) from error
    return checked(typed(table, preparation), preparation)


# ---- JSON ----------------------------------------------------------------------------------


def _json_body(content: bytes, preparation: Preparation, max_rows: int) -> Body:
    document = parsed(content)
    forms = '{"columns": {name: [value, ...]}} or {"rows": [{name: value}, ...]}'
    if not isinstance(document, dict) or len({"columns", "rows"} & set(document)) != 1:
        raise RequestError(400, f"the body must be {forms}")
    if unknown := sorted(set(document) - {"columns", "rows", "weights"}):
        names = [name[:80] for name in unknown[:5]]
        raise RequestError(400, f"the body has the keys {names}; allowed: columns, rows, weights")
    names = [c.name for c in preparation.columns]
    if "rows" in document:
        columns = _turned(document["rows"], names, max_rows)
    else:
        columns = document["columns"]
        if not isinstance(columns, dict) or not all(isinstance(c, list) for c in columns.values()):
            raise RequestError(400, f"columns must be an object of lists, as in {forms}")
        require_few_rows(max((len(c) for c in columns.values()), default=0), max_rows)
    weights = document.get("weights", {})
    if not isinstance(weights, dict) or not all(isinstance(w, list) for w in weights.values()):
        raise RequestError(400, 'weights must be an object of lists, as in {"name": [1.0, ...]}')
    for name, factors in weights.items():
        _require_numbers(name, factors)
    read = {name: cells for name, cells in columns.items() if name in names}
    if len(read) < len(names):
        lacking, given = ([n for n in names if n not in read], list(columns))
        raise RequestError(
            422, f"the rows lack the columns {_few(lacking)}; given are {_few(given)}"
        )
    return Body((_table if weights else rows_of)(read, preparation), weights)


def _few(names: list[str]) -> str:
    """The first names, shortened, and how many there are besides."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{[name[:20] for name in names[:_SHOWN]]}{more}"


def _require_numbers(name: str, factors: list[Any]) -> None:
    """RequestError unless these are numbers, or lists of numbers, where null stands for none."""
    for row, factor in enumerate(factors):
        for number in factor if isinstance(factor, list) else [0 if factor is None else factor]:
            if type(number) not in (int, float):
                raise RequestError(
                    422, f"row {row}, weights of column {name[:80]!r}: {str(number)[:80]!r}; "
                    "allowed: a number for each id"
                )  # fmt: skip


def typed(table: Any, preparation: Preparation) -> Any:
    """The same rows, with a type for columns in which JSON showed none: all is null or empty."""
    for c in preparation.columns:
        if c.name not in table.column_names:
            continue
        place = table.column_names.index(c.name)
        kind = table[c.name].type
        empty = pa.types.is_null(kind) or (
            pa.types.is_list(kind) and pa.types.is_null(kind.value_type)
        )
        if empty and c.kind == "multivalent":
            table = table.set_column(place, c.name, table[c.name].cast(pa.list_(pa.string())))
        elif pa.types.is_null(kind):
            plain = pa.float64() if c.kind == "numeric" or c.rule != "token" else pa.string()
            table = table.set_column(place, c.name, table[c.name].cast(plain))
    return table


def parsed(content: bytes) -> Any:
    """The JSON value of a text, strictly; RequestError with status 400 if it is none."""
    try:
        return json.loads(
            content.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=no_duplicate_keys
        )
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(400, f"the body is no JSON text in UTF-8: {why}") from error


def _turned(rows: Any, names: list[str], max_rows: int) -> dict[str, list[Any]]:
    """Columns of a list of rows."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(400, "rows must be a list of objects")
    require_few_rows(len(rows), max_rows)
    for i, row in enumerate(rows):
        if missing := [name for name in names if name not in row]:
            raise RequestError(
                422, f"row {i} lacks the columns {missing}; give null where a value is missing"
            )
    return {name: [row[name] for row in rows] for name in names}


def require_few_rows(rows: int, max_rows: int) -> None:
    """RequestError with status 413 if a request has more rows than it may have."""
    if rows > max_rows:
        raise RequestError(413, f"{rows} rows; allowed: {max_rows} in one request; send several")


# ---- Arrow ---------------------------------------------------------------------------------


def _arrow_table(content: bytes, preparation: Preparation, max_rows: int, max_body: int) -> Any:
    names = {c.name: c for c in preparation.columns}
    try:
        if is_compressed(content):
            raise RequestError(400, "the Arrow stream is compressed; write it uncompressed")
        with pa.ipc.open_stream(content) as reader:
            schema, batches, rows, truths = reader.schema, [], 0, 0
            for field in schema:
                if field.name in names:
                    _require_known_type(field, names[field.name])
            for batch in reader:
                rows += batch.num_rows
                require_few_rows(rows, max_rows)
                truths += sum(
                    _booleans(a) for f, a in zip(schema, batch, strict=True) if f.name in names
                )
                if truths > max_body:
                    raise RequestError(
                        413,
                        f"{truths} booleans of a byte each; allowed: {max_body} bytes "
                        "(--max-body); send fewer rows in a request",
                    )
                batch.validate(full=True)
                batches.append(batch)
        table = pa.Table.from_batches(batches, schema)
    except RequestError:
        raise
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        why = first_line(error)
        raise RequestError(400, f"the body is no Arrow stream: {why}") from error
    return table.select([i for i, f in enumerate(schema) if f.name in names])


def _require_known_type(field: Any, column: Column) -> None:
    """RequestError unless no cell of this type can hold more values than the body has bits."""
    kind, t = field.type, pa.types
    lists = t.is_list(kind) or t.is_large_list(kind)
    if lists if column.kind == "multivalent" else t.is_dictionary(kind):
        kind = kind.value_type
    text = t.is_string(kind) or t.is_large_string(kind)
    number = t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_decimal(kind)
    if not (text or number or (t.is_null(kind) and not lists)):
        raise RequestError(
            422,
            f"column {field.name!r} has the type {field.type}; allowed: numbers, booleans and "
            "text; for a multivalent column also lists of them, for the others dictionaries",
        )


def _booleans(array: Any) -> int:
    """How many booleans an array has, those in its lists or in its dictionary included."""
    t = pa.types
    if t.is_list(array.type) or t.is_large_list(array.type):
        array = array.values
    elif t.is_dictionary(array.type):
        array = array.dictionary
    return len(array) if t.is_boolean(array.type) else 0


# ---- both ----------------------------------------------------------------------------------


def checked(table: Any, preparation: Preparation) -> Any:
    """The table; RequestError with status 422 if a value has more bytes than :data:`MAX_TEXT`."""
    for c in preparation.columns:
        if c.name not in table.column_names or table.column_names.count(c.name) > 1:
            continue  # the preparation says what is wrong with these
        for chunk in table[c.name].chunks:
            longest = _longest(chunk, c.separator if c.kind == "multivalent" else None)
            if longest > MAX_TEXT:
                raise RequestError(
                    422,
                    f"column {c.name!r} has a value of {longest} bytes; allowed: {MAX_TEXT}",
                )
    return table


def _longest(array: Any, separator: str | None) -> int:
    """Bytes of the longest text of an array, of a list in it, or between separators."""
    t = pa.types
    if t.is_dictionary(array.type):
        return _longest(array.dictionary, separator)
    if t.is_list(array.type) or t.is_large_list(array.type):
        return _longest(array.flatten(), None)
    if not (t.is_string(array.type) or t.is_large_string(array.type)):
        return 0
    longest = pc.max(pc.binary_length(array)).as_py() or 0
    if separator is not None and longest > MAX_TEXT:
        return _longest(pc.split_pattern(array, separator).flatten(), None)
    return int(longest)


def write_scores(kind: str, scores: Floats, package: str, labels: Sequence[str] = ()) -> bytes:
    """The body of an answer of this media type: the scores in the order of the rows.

    Args:
        kind: :data:`JSON` or :data:`ARROW`.
        scores: float32 (B,), or (B, T) of T labels.
        package: The version of the package that gave them.
        labels: The labels of a package of several.
    """
    if kind == JSON:
        named = {"labels": list(labels)} if labels else {}
        return json.dumps({"scores": scores.tolist(), **named, "package": package}).encode()
    columns = score_columns(scores, labels)
    fields = [(name, pa.float32()) for name in columns]
    schema = pa.schema(fields, metadata={"package": package})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    found: bytes = sink.getvalue().to_pybytes()
    return found
