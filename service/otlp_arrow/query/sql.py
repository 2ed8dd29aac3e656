"""SQL over the views, by DuckDB, shut in: one SELECT, no files, no network, no settings, so much memory and time.

A statement is planned twice: the first plan tells which columns it reads and what its filters say, and only these
columns, of rows that may be wanted, are decoded, one unit after the other, while DuckDB reads them.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otlp_arrow.codec.schema import BOOL, BYTES, DOUBLE, INT, MAP, SCHEMAS, SLICE, STR
from otlp_arrow.model import Signal
from otlp_arrow.query import views
from otlp_arrow.query.budget import Budget
from otlp_arrow.query.conditions import Condition, InTime, Number, OfTrace, Word, rows_matching
from otlp_arrow.query.errors import BadQuery, QueryError
from otlp_arrow.query.segments import Unit, as_int64, times_of
from otlp_arrow.query.source import DirectorySource, SegmentGone, View
from otlp_arrow.query.sql_bounds import MAX_RESULT_BYTES, MEMORY_LIMIT, THREADS, TOO_MUCH_MEMORY, check

_FETCH_ROWS = 2048

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": MEMORY_LIMIT,
    "threads": str(THREADS),
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
    "allow_persistent_secrets": "false",
    "temp_directory": "",
}


def run(
    source: DirectorySource, statement: str, parameters: Sequence[object], max_rows: int, budget: Budget
) -> tuple[pa.Table, bool]:
    """The answer of one SELECT, at most ``max_rows`` rows, and whether there were more.

    Raises ``BadQuery`` for what is no single SELECT or fails in DuckDB, ``QueryTimeout`` and ``QueryCancelled``.
    """
    check(statement, parameters, max_rows)
    budget.check()
    connection = duckdb.connect(":memory:", config=_CONFIG)
    tables = {signal: _Base(source, signal, budget) for signal in Signal}
    with _Watch(connection, budget) as watch:
        try:
            _only_select(connection, statement)
            statement = views.with_nested_names(statement)
            for signal, table in tables.items():
                connection.register(views.BASE[signal], table)
            now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(views.statements(now.isoformat(sep=" ")))
            connection.execute("SET lock_configuration = true")
            _plan(connection, statement, parameters, tables)
            return _fetch(connection, statement, parameters, max_rows, budget)
        except duckdb.Error as error:
            watch.stop()
            budget.check()  # an interrupt is an error in DuckDB's words
            for table in tables.values():
                if table.failure is not None:
                    raise table.failure from None
            raise _translated(error) from None
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, QueryError):
                raise
            raise BadQuery(f"not to be asked so: {str(error)[:1000]}") from None  # parameters of a kind unknown to it
        finally:
            watch.stop()
            connection.close()


def _only_select(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    try:
        found = connection.extract_statements(statement)
    except duckdb.Error as error:
        raise _translated(error) from None
    if len(found) != 1:
        raise BadQuery(f"one statement at a time; this is {len(found)}")
    if found[0].type != duckdb.StatementType.SELECT:
        raise BadQuery(f"only SELECT is answered, not {found[0].type.name}")


def _plan(
    connection: duckdb.DuckDBPyConnection,
    statement: str,
    parameters: Sequence[object],
    tables: dict[Signal, _Base],
) -> None:
    """Tell the tables what will be read of them."""
    text = statement.strip().rstrip(";")
    if re.match(r"(?is)\s*(describe|desc|show|summarize)\b", text):
        for table in tables.values():
            table.columns = set(table.schema.names)
        return
    rows = connection.execute(f"EXPLAIN (FORMAT JSON) {text}", list(parameters)).fetchall()
    scans = list(_scans(json.loads(rows[0][1]), ()))
    for signal, table in tables.items():
        prefix = views.PREFIX[signal]
        mine = [(names, filters) for names, filters in scans if any(name.startswith(prefix) for name in names)]
        table.columns = {name for names, _ in mine for name in names}
        table.narrow([filters for _, filters in mine])


def _scans(nodes: Any, filters: tuple[str, ...]) -> Iterator[tuple[list[str], tuple[str, ...]]]:
    """The columns of each scan, and the filters that stand directly over it."""
    for node in nodes:
        details = node.get("extra_info", {})
        if "ARROW_SCAN" in node.get("name", ""):
            names = details.get("Projections", [])
            own = details.get("Filters", [])
            own = [own] if isinstance(own, str) else own
            yield ([names] if isinstance(names, str) else list(names)), (*filters, *own)
        elif node.get("name") == "FILTER" and len(node["children"]) == 1:
            yield from _scans(node["children"], (*filters, str(details.get("Expression", ""))))
        else:
            yield from _scans(node.get("children", []), ())


def _fetch(
    connection: duckdb.DuckDBPyConnection, statement: str, parameters: Sequence[object], max_rows: int, budget: Budget
) -> tuple[pa.Table, bool]:
    found = connection.sql(statement, params=list(parameters))
    reading: Callable[[int], pa.RecordBatchReader] = getattr(found, "to_arrow_reader", None) or found.fetch_arrow_reader
    reader = reading(_FETCH_ROWS)
    batches: list[pa.RecordBatch] = []
    rows = nbytes = 0
    truncated = False
    try:
        for batch in reader:
            budget.check()
            left = max_rows - rows
            if batch.num_rows > left:
                batches.append(batch.slice(0, left))
                truncated = True
                break
            batches.append(batch)
            rows += batch.num_rows
            nbytes += batch.nbytes
            if nbytes > MAX_RESULT_BYTES:
                raise BadQuery(f"the answer is larger than {MAX_RESULT_BYTES} bytes; select less")
    except (pa.ArrowException, OSError) as error:
        budget.check()
        raise _translated(error) from None
    return pa.Table.from_batches(batches, reader.schema), truncated


def _translated(error: Exception) -> QueryError:
    if str(error).startswith("Out of Memory Error"):  # what DuckDB advises are settings, which nobody here can make
        return BadQuery(TOO_MUCH_MEMORY)
    return BadQuery(" ".join(str(error).split("\n\nLINE", 1)[0].split("\n"))[:1000])


class _Watch:
    """Interrupts a statement whose time is up or for which nobody waits."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, budget: Budget) -> None:
        self._connection = connection
        self._budget = budget
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="otlp-sql-watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _wait(self) -> None:
        while not self._over.wait(0.05):
            if self._budget.cancelled.is_set() or self._budget.left_s == 0:
                self._connection.interrupt()


class _Base:
    """One signal as DuckDB scans it: a new stream for each scan, with the columns that the plan named."""

    def __init__(self, source: DirectorySource, signal: Signal, budget: Budget) -> None:
        self._source = source
        self._signal = signal
        self._budget = budget
        self._view: View | None = None
        self._conditions: list[Condition] = []
        self.schema = base_schema(signal)
        self.columns: set[str] = set()
        self.failure: BaseException | None = None

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.RecordBatchReader.from_batches(self.schema, self._batches()).__arrow_c_stream__(requested_schema)

    def narrow(self, filters: list[tuple[str, ...]]) -> None:
        """If it is scanned once, rows that the filters over this scan rule out need not be handed over."""
        if len(filters) == 1:
            self._conditions = [condition for text in filters[0] for condition in conditions_in(text)]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            if self._view is None:
                self._view = self._source.view(self._signal)
            for unit in self._view.units:
                self._budget.check()
                summary = self._source.summary(unit)
                if all(each.may_match(unit, summary) for each in self._conditions):
                    yield from self._of_unit(unit)
        except (QueryError, SegmentGone) as error:
            self.failure = error
            raise

    def _of_unit(self, unit: Unit) -> Iterator[pa.RecordBatch]:
        rows = rows_matching(unit, self._conditions)
        if len(rows):
            yield base_batch(unit, self.schema, self.columns, None if len(rows) == unit.rows else rows)


# -- what a filter says ------------------------------------------------------------------------------
_TEXT = r"'((?:[^']|'')*)'"
_STAMP = r"'([^']+)'::TIMESTAMP(?:_US)?"
_BETWEEN = re.compile(rf"[tlm]_time BETWEEN {_STAMP} AND {_STAMP}")
_COMPARED = re.compile(rf"[tlm]_time (>=|>|<=|<|=) {_STAMP}")
_TRACE = re.compile(r"lower\(hex\([tl]_trace_id\)\) = '([0-9a-f]{32})'")
_WORD = re.compile(rf"[tlm]_(\w+) = {_TEXT}")
_WORDS = {"service_name", "name", "metric_name", "metric_type", "severity_text", "event_name"}


def conditions_in(expression: str) -> list[Condition]:
    """Conditions that hold for every row that an expression keeps: its parts, joined by AND, as far as understood."""
    text = _bare(expression)
    if found := _BETWEEN.fullmatch(text):
        return [InTime(_nanoseconds(found[1]), _nanoseconds(found[2]) + 1000)]
    parts = _conjuncts(text)
    if len(parts) > 1:
        return [condition for part in parts for condition in conditions_in(part)]
    if found := _COMPARED.fullmatch(text):
        moment = _nanoseconds(found[2])
        # The column has microseconds: what is equal there may be up to a microsecond later.
        return [
            InTime(
                moment if found[1] in (">=", ">", "=") else None,
                moment + 1000 if found[1] in ("<=", "<", "=") else None,
            )
        ]
    if found := _TRACE.fullmatch(text):
        return [OfTrace(bytes.fromhex(found[1]))]
    if found := _WORD.fullmatch(text):
        name, value = found[1], found[2].replace("''", "'")
        if name in _WORDS:
            return [Word(name, value)]
        if name in _NAMED and value in _NAMED[name][1]:
            number = _NAMED[name][1].index(value)
            return [Number(_NAMED[name][0], number, number)]
    return []


def _bare(text: str) -> str:
    """Without parentheses around the whole."""
    text = text.strip()
    while text.startswith("(") and _closing(text) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _closing(text: str) -> int:
    """Where the parenthesis that ``text`` begins with is closed; -1 if it is not."""
    depth, quoted = 0, False
    for at, letter in enumerate(text):
        if letter == "'":
            quoted = not quoted
        elif not quoted:
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                return at
    return -1


def _conjuncts(text: str) -> list[str]:
    parts: list[str] = []
    depth, quoted, start = 0, False, 0
    for at, letter in enumerate(text):
        if letter == "'":
            quoted = not quoted
        elif not quoted:
            depth += (letter == "(") - (letter == ")")
            if depth == 0 and text.startswith(" AND ", at):
                parts.append(text[start:at])
                start = at + 5
    return [*parts, text[start:]]


def _nanoseconds(text: str) -> int:
    moment = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
    return (
        int((moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1)) * 1000
    )


# -- columns as DuckDB takes them ------------------------------------------------------------------
_TEXTS = pa.map_(pa.utf8(), pa.utf8())
_STAMPS = pa.timestamp("us")
_EVENT = pa.struct(
    [
        pa.field("time", _STAMPS),
        pa.field("time_unix_nano", pa.int64()),
        pa.field("name", pa.utf8()),
        pa.field("attributes", _TEXTS),
        pa.field("dropped_attributes_count", pa.uint32()),
    ]
)
_LINK = pa.struct(
    [
        pa.field("trace_id", pa.utf8()),
        pa.field("span_id", pa.utf8()),
        pa.field("trace_state", pa.utf8()),
        pa.field("flags", pa.uint32()),
        pa.field("attributes", _TEXTS),
        pa.field("dropped_attributes_count", pa.uint32()),
    ]
)
_EXEMPLAR = pa.struct(
    [
        pa.field("time", _STAMPS),
        pa.field("time_unix_nano", pa.int64()),
        pa.field("value", pa.float64()),
        pa.field("trace_id", pa.utf8()),
        pa.field("span_id", pa.utf8()),
        pa.field("attributes", _TEXTS),
    ]
)
_LEFT_OUT = ("resource_entity_refs", "metadata")
_STATUSES = ("UNSET", "OK", "ERROR")
_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_NAMED: dict[str, tuple[str, tuple[str, ...]]] = {
    "status": ("status_code", _STATUSES),
    "status_word": ("status_code", tuple(each.title() for each in _STATUSES)),
    "kind_name": ("kind", _KINDS),
    "kind_word": ("kind", tuple(each.title() for each in _KINDS)),
}
"""Columns of words that stand for numbers; numbers without a word are their digits."""

_ADDED = {
    Signal.TRACES: {
        "time": _STAMPS,
        "end": _STAMPS,
        "attribute_types": _TEXTS,
        **dict.fromkeys(_NAMED, pa.utf8()),
    },
    Signal.LOGS: {"time": _STAMPS, "unix_nano": pa.int64(), "attribute_types": _TEXTS},
    Signal.METRICS: {"time": _STAMPS, "start": _STAMPS, "value": pa.float64(), "attribute_types": _TEXTS},
}
_TYPE_NAMES = pa.array(["empty", "string", "int", "double", "bool", "map", "list", "bytes"])


def base_schema(signal: Signal) -> pa.Schema:
    """The columns that the views are made of."""
    fields: list[tuple[str, pa.DataType]] = []
    for each in SCHEMAS[signal]:
        type_ = each.type
        if each.name in _LEFT_OUT:
            continue
        if pa.types.is_map(type_):
            type_ = _TEXTS
        elif pa.types.is_timestamp(type_):
            type_ = pa.int64()
        elif each.name == "body":
            type_ = pa.utf8()
        elif each.name in ("events", "links", "exemplars"):
            type_ = pa.list_({"events": _EVENT, "links": _LINK, "exemplars": _EXEMPLAR}[each.name])
        elif pa.types.is_dictionary(type_):
            type_ = pa.utf8()
        elif pa.types.is_fixed_size_binary(type_):
            type_ = pa.binary()
        fields.append((views.PREFIX[signal] + each.name, type_))
    fields += [(views.PREFIX[signal] + name, type_) for name, type_ in _ADDED[signal].items()]
    return pa.schema(fields)


class _Some:
    """Some rows of a unit."""

    def __init__(self, unit: Unit, rows: np.ndarray) -> None:
        self.signal = unit.signal
        self.rows = len(rows)
        self._unit = unit
        self._indices = pa.array(rows)

    def column(self, name: str) -> pa.Array:
        """A column."""
        return self._unit.column(name).take(self._indices)


def base_batch(whole: Unit, schema: pa.Schema, wanted: set[str], rows: np.ndarray | None = None) -> pa.RecordBatch:
    """A unit's rows, or some of them, in ``base_schema``; columns that nobody wants are null."""
    prefix = views.PREFIX[whole.signal]
    unit = whole if rows is None else _Some(whole, rows)
    columns = [
        _base_column(unit, field.name.removeprefix(prefix), field.type)
        if field.name in wanted
        else pa.nulls(unit.rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _base_column(unit: Unit | _Some, name: str, type_: pa.DataType) -> pa.Array:
    match name:
        case "time":
            return _stamps(times_of(unit.signal, unit))
        case "end":
            return _stamps(as_int64(unit.column("end_time_unix_nano")))
        case "start":
            return _stamps(as_int64(unit.column("start_time_unix_nano")))
        case "unix_nano":
            return times_of(unit.signal, unit)
        case "value":
            return pc.coalesce(unit.column("double_value"), unit.column("int_value").cast(pa.float64(), safe=False))
        case "attribute_types":
            return _attributes(unit.column("attributes"), types=True)
        case "body":
            return value_texts(unit.column("body"))
        case "events":
            return _listed(unit.column("events"), _events)
        case "links":
            return _listed(unit.column("links"), _links)
        case "exemplars":
            return _listed(unit.column("exemplars"), _exemplars)
    if name in _NAMED:
        number, words = _NAMED[name]
        return _named(unit.column(number), words)
    column = unit.column(name)
    if pa.types.is_map(column.type):
        return _attributes(column)
    if pa.types.is_timestamp(column.type):
        return as_int64(column)
    return column if column.type == type_ else column.cast(type_)


def _named(numbers: pa.Array, words: tuple[str, ...]) -> pa.Array:
    texts = numbers.cast(pa.utf8())
    for number, word in enumerate(words):
        texts = pc.if_else(pc.equal(numbers, number), word, texts)
    return texts


def _stamps(nanoseconds: pa.Array) -> pa.Array:
    return pc.divide(nanoseconds, 1000).cast(_STAMPS)


def value_texts(values: pa.StructArray) -> pa.Array:
    """Attribute values as text: strings and JSON as they are, bytes as hex, null for an empty value."""
    types = values.field("type")
    numbers = (types.fill_null(0) if types.null_count else types).to_numpy(zero_copy_only=False)
    present = np.unique(numbers)
    found = values.field("str")
    for number, name in ((INT, "int"), (DOUBLE, "double"), (BOOL, "bool"), (BYTES, "bytes")):
        if number in present:
            at = pa.array(numbers == number)
            child = values.field(name).filter(at)
            if number == BYTES:
                texts = pa.array([None if each is None else each.hex() for each in child.to_pylist()], pa.utf8())
            else:
                texts = child.cast(pa.utf8())
            found = pc.replace_with_mask(found, at, texts)
    if not set(present.tolist()) <= {STR, INT, DOUBLE, BOOL, MAP, SLICE, BYTES}:
        found = pc.if_else(pa.array(numbers > 0), found, None)
    return found


def _attributes(column: pa.Array, *, types: bool = False) -> pa.Array:
    """A map from text to text; of a key that occurs twice in a row the last value."""
    offsets = column.offsets.to_numpy(zero_copy_only=False) if len(column) else np.zeros(1, np.int32)
    start, end = int(offsets[0]), int(offsets[-1])
    keys, values = column.keys.slice(start, end - start), column.items.slice(start, end - start)
    offsets = offsets - start
    codes = keys.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.repeat(np.arange(len(column)), np.diff(offsets))
    pairs = rows * len(keys.dictionary) + codes
    if len(pairs) and np.bincount(pairs).max() > 1:
        _, last = np.unique(pairs[::-1], return_index=True)
        kept = np.sort(len(pairs) - 1 - last)
        keys, values = keys.take(pa.array(kept)), values.take(pa.array(kept))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows[kept], minlength=len(column)))])
    if types:
        numbers = values.field("type").fill_null(0)
        texts = _TYPE_NAMES.take(numbers)
    else:
        texts = value_texts(values)
    return pa.MapArray.from_arrays(pa.array(offsets.astype(np.int32)), keys.cast(pa.utf8()), texts)


def _listed(column: pa.Array, members: Callable[[pa.StructArray], pa.StructArray]) -> pa.Array:
    offsets = column.offsets.to_numpy(zero_copy_only=False) if len(column) else np.zeros(1, np.int32)
    start, end = int(offsets[0]), int(offsets[-1])
    inside = members(column.values.slice(start, end - start))
    mask = column.is_null() if column.null_count else None
    return pa.ListArray.from_arrays(pa.array((offsets - start).astype(np.int32)), inside, mask=mask)


def _hex(column: pa.Array) -> pa.Array:
    return pa.array([None if each is None else each.hex() for each in column.to_pylist()], pa.utf8())


def _fields(values: pa.StructArray) -> dict[str, pa.Array]:
    return {field.name: values.field(field.name) for field in values.type}


def _events(values: pa.StructArray) -> pa.StructArray:
    c = _fields(values)
    times = as_int64(c["time_unix_nano"])
    return pa.StructArray.from_arrays(
        [_stamps(times), times, c["name"].cast(pa.utf8()), _attributes(c["attributes"]), c["dropped_attributes_count"]],
        fields=list(_EVENT),
    )


def _links(values: pa.StructArray) -> pa.StructArray:
    c = _fields(values)
    return pa.StructArray.from_arrays(
        [_hex(c["trace_id"]), _hex(c["span_id"]), c["trace_state"], c["flags"]]
        + [_attributes(c["attributes"]), c["dropped_attributes_count"]],
        fields=list(_LINK),
    )


def _exemplars(values: pa.StructArray) -> pa.StructArray:
    c = _fields(values)
    times = as_int64(c["time_unix_nano"])
    value = pc.coalesce(c["double_value"], c["int_value"].cast(pa.float64(), safe=False))
    return pa.StructArray.from_arrays(
        [_stamps(times), times, value, _hex(c["trace_id"]), _hex(c["span_id"]), _attributes(c["filtered_attributes"])],
        fields=list(_EXEMPLAR),
    )
