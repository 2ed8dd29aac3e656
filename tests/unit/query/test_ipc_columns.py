"""Columns read one by one are what pyarrow reads."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import strategies
from otlp_arrow.codec import decode, encode, new_builder
from otlp_arrow.codec.schema import SCHEMAS
from otlp_arrow.model import Signal
from otlp_arrow.query import SpanStore
from otlp_arrow.query.engine import Engine
from otlp_arrow.query.errors import QueryError
from otlp_arrow.query.ipc_columns import Unreadable, layout, read_batch_header
from otlp_arrow.query.nested import combine, row_codes
from otlp_arrow.query.segments import _LAYOUTS, ColumnCache, FileUnit, SegmentFile, SegmentPlaces
from otlp_arrow.storage.store import StorageSettings, Store
from samples import samples
from waiting import wait_until


def written(directory: Path, signal: Signal, batches: list[pa.RecordBatch]) -> list[FileUnit]:
    """The batches as units of a segment: each twice, as Arrow writes it and as the kernel does."""
    store = Store(StorageSettings(directory))
    store.open()
    builder = new_builder(signal)
    for number, batch in enumerate(batches):
        builder.append([encode(signal, batch)])
        rows = builder.memory()
        assert rows is not None
        store.write(signal, batch, 2 * number + 1, 2 * number + 1)
        store.write(signal, rows, 2 * number + 2, 2 * number + 2)
        builder.clear()
    store.close(2 * len(batches))
    (path,) = (directory / "otlp" / signal.value).iterdir()
    file = SegmentFile(path)
    stat = file.stat()
    places = SegmentPlaces(path, signal, stat.st_ino)
    places.extend(file, stat.st_size, stat.st_mtime_ns)
    assert places.closed
    cache = ColumnCache(2**24)
    return [FileUnit(places, place, file, cache, cache) for place in places.units]


def regrouped(signal: Signal, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows in the order in which a request of them has them."""
    return decode(signal, encode(signal, batch))


def same(found: pa.Array, wanted: pa.Array) -> bool:
    """Equal, with NaN equal to itself."""
    if found.equals(wanted):
        return True
    rows = (strategies.columns.read(array) for array in (found, wanted))
    return found.type == wanted.type and all(
        strategies.comparable(a) == strategies.comparable(b) for a, b in zip(*rows, strict=True)
    )


def check(units: list[FileUnit], batches: list[pa.RecordBatch]) -> None:
    assert len(units) == 2 * len(batches)
    for number, unit in enumerate(units):
        batch = regrouped(unit.signal, batches[number // 2]) if number % 2 else batches[number // 2]
        unit.verify()
        some = np.array(sorted(random.Random(1).sample(range(batch.num_rows), min(3, batch.num_rows))), np.int64)
        for name in batch.schema.names:
            column = unit.column(name)
            column.validate(full=True)
            assert same(column, batch.column(name)), name
            picked = unit._open().take(_LAYOUTS[unit.signal][name], some)
            picked.validate(full=True)
            assert same(picked, batch.column(name).take(pa.array(some))), name
        for numbered in (False, True):
            if numbered:
                unit.number()
            shuffled = np.array(random.Random(2).sample(range(batch.num_rows), batch.num_rows))
            found, wanted = unit.take(shuffled), batch.take(pa.array(shuffled))
            assert all(map(same, found.columns, wanted.columns))
        for name in ("resource_attributes", "scope_attributes"):
            codes = row_codes(batch.column(name))
            rows = strategies.columns.read(batch.column(name))
            first: dict[int, object] = {}
            for code, row in zip(codes.tolist(), rows, strict=True):
                assert strategies.comparable(first.setdefault(code, row)) == strategies.comparable(row)


@pytest.mark.parametrize("signal", Signal)
def test_every_sample_reads_column_by_column_as_pyarrow_reads_it(tmp_path: Path, signal: Signal):
    batches = [decode(signal, sample.payload) for sample in samples() if sample.signal is signal]
    batches = [batch for batch in batches if batch.num_rows]
    check(written(tmp_path, signal, batches), batches)


@pytest.mark.parametrize("signal", Signal)
@hypothesis_settings(max_examples=15)
@given(data=st.data())
def test_any_request_reads_column_by_column_as_pyarrow_reads_it(tmp_path_factory, signal: Signal, data: st.DataObject):
    requests = data.draw(st.lists(strategies.requests(signal), min_size=1, max_size=3))
    batches = [decode(signal, request.SerializeToString()) for request in requests]
    batches = [batch for batch in batches if batch.num_rows]
    if batches:
        check(written(tmp_path_factory.mktemp("any"), signal, batches), batches)


def test_large_buffers_are_read_only_as_far_as_the_rows_reach(tmp_path: Path):
    payload = max((s.payload for s in samples() if s.signal is Signal.TRACES), key=len)
    batch = decode(Signal.TRACES, payload)
    large = pa.concat_batches([batch] * (40_000 // batch.num_rows))
    theirs, ours = written(tmp_path, Signal.TRACES, [large])
    for unit, whole in ((theirs, large), (ours, regrouped(Signal.TRACES, large))):
        for rows in ([0], [5, 7, 100], [large.num_rows - 1], [3, large.num_rows // 2]):
            some = np.array(rows)
            assert unit.take(some).equals(whole.take(pa.array(some)))


def test_resources_are_numbered_with_the_index_and_where_they_are_asked_for_again(tmp_path: Path):
    batch = next(decode(Signal.TRACES, s.payload) for s in samples() if s.signal is Signal.TRACES)
    large = pa.concat_batches([batch] * (2000 // batch.num_rows))
    written(tmp_path, Signal.TRACES, [large])
    trace_id = large.column("trace_id")[0].as_py().hex()

    def asked(store: SpanStore) -> list[FileUnit]:
        assert isinstance(store.target, Engine)
        return store.target.source.known_units(Signal.TRACES)

    with SpanStore.open(tmp_path) as store:
        store.build_indexes()
        assert all(unit.cached_origins() is not None for unit in asked(store))
    with SpanStore.open(tmp_path) as store:  # the index is read from disk, which has no such numbers
        first = store.get_trace(trace_id).to_arrow()
        assert not any(unit.wants_origins for unit in asked(store))
        for _ in range(2):
            assert store.get_trace(trace_id).to_arrow().equals(first)
        wait_until(lambda: all(unit.cached_origins() is not None for unit in asked(store)))
        assert store.get_trace(trace_id).to_arrow().equals(first)
        assert isinstance(store.target, Engine)
        store.target.source.origins = ColumnCache(0)
        for unit in asked(store):
            unit._origins = store.target.source.origins
        store.get_trace(trace_id)
        assert not any(unit.wants_origins for unit in asked(store))  # what cannot be kept is not made again


def test_a_damaged_unit_is_an_error_and_not_a_wrong_answer(tmp_path: Path):
    batches = [decode(Signal.TRACES, sample.payload) for sample in samples() if sample.signal is Signal.TRACES][:1]
    unit, _ = written(tmp_path, Signal.TRACES, batches)
    path = unit.segment.path
    data = bytearray(path.read_bytes())
    data[unit.place.body + 40] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(QueryError, match="checksum"):
        unit.verify()
    path.write_bytes(data[: unit.place.body + 8])
    with pytest.raises(QueryError):
        unit.column("attributes")


def test_what_is_no_message_is_refused():
    for junk in (b"", b"\0" * 16, b"\xff" * 64):
        with pytest.raises(Unreadable):
            read_batch_header(junk)
    with pytest.raises(Unreadable):
        layout(pa.schema([("a", pa.large_list(pa.int8()))]))


@pytest.mark.parametrize("largest", [2**31 - 1, 2**32 - 1])
def test_rows_that_differ_get_different_numbers_however_large_their_values(largest: int):
    first, second = np.arange(70_000), np.zeros(70_000, np.int64)
    second[-1] = largest
    assert len(np.unique(combine([first, first % 7, second]))) == 70_000


def test_a_cache_holds_no_more_than_it_may():
    cache = ColumnCache(1000)
    arrays = [pa.array(np.arange(n, n + 40)) for n in range(5)]
    for n, array in enumerate(arrays):
        cache.put(("a", 0, n, "c"), array)
    assert cache.nbytes <= 1000
    assert cache.get(("a", 0, 0, "c")) is None
    assert cache.get(("a", 0, 4, "c")).equals(arrays[4])
    cache.put(("a", 0, 9, "c"), pa.array(np.arange(100)))
    assert cache.get(("a", 0, 9, "c")) is None


assert SCHEMAS
