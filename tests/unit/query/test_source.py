"""What queries see of a directory while it is written, rotated, expired, damaged and recovered."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

import asked
from otlp_arrow.codec import decode
from otlp_arrow.model import Encoding, Signal
from otlp_arrow.query import QueryError, SpanQuery, SpanStore
from otlp_arrow.query.source import DirectorySource
from otlp_arrow.storage.store import StorageSettings, Store
from otlp_arrow.storage.wal import Entry


class Written:
    """A store whose steps the test makes one by one, and the spans it holds."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.directory = directory
        self.store = Store(StorageSettings(directory, **settings))
        self.store.open()
        self.spans = asked.Spans(seed=1)
        self.unstored: list[tuple[int, bytes]] = []

    def log(self, spans: int = 10) -> None:
        """One more acknowledged request."""
        payload = self.spans.request(spans)
        sequence = self.store.wal.append([Entry(Signal.TRACES, Encoding.OTLP, spans, 1, payload)])
        self.store.wal.sync()
        self.store.wal.confirm()
        self.unstored.append((sequence, payload))

    def flush(self, count: int | None = None) -> None:
        """Some of the requests into a unit of the open segment."""
        taken, self.unstored = self.unstored[:count], self.unstored[count:] if count else []
        batches = [decode(Signal.TRACES, payload) for _, payload in taken]
        import pyarrow as pa

        self.store.write(Signal.TRACES, pa.concat_batches(batches), taken[0][0], taken[-1][0])

    def release(self) -> None:
        """Let go of the log behind what is stored."""
        self.store.release(self.store.catalog.watermark(Signal.TRACES))

    @property
    def all(self) -> list[int]:
        return [span.number for span in self.spans.known]


@pytest.fixture
def written(tmp_path: Path):
    found = Written(tmp_path / "output", wal_file_bytes=4096)
    yield found
    found.store.close(0)


def seen(store: SpanStore) -> list[int]:
    return sorted(span.attributes["n"] for span in store.query_spans(SpanQuery(max_spans=100_000)))


def test_every_acknowledged_row_is_seen_once_at_every_step(written: Written):
    with SpanStore.open(written.directory) as following:
        for step in range(30):
            written.log()
            if step % 7 == 6:
                written.flush()
            elif step % 5 == 4:
                written.flush(2)  # not all that is in the log
            if step % 11 == 10:
                written.store.close_segment(Signal.TRACES)
            if step % 6 == 5:
                written.release()
            assert seen(following) == written.all
            with SpanStore.open(written.directory) as fresh:
                assert seen(fresh) == written.all


def test_small_batches_of_the_log_are_merged_and_nothing_is_lost(written: Written):
    source = DirectorySource(written.directory)
    for _ in range(30):
        written.log(3)
        view = source.view(Signal.TRACES)
        assert sum(unit.rows for unit in view.units) == len(written.all)
    assert len(view.units) < 15
    written.flush(10)
    assert sum(unit.rows for unit in source.view(Signal.TRACES).units) == len(written.all)


def test_a_frame_that_was_taken_back_is_seen_no_more(written: Written):
    with SpanStore.open(written.directory) as store:
        written.log()
        assert seen(store) == written.all
        payload = written.spans.request(10)
        kept = written.all[:10]
        written.store.wal.append([Entry(Signal.TRACES, Encoding.OTLP, 10, 1, payload)])
        seen(store)  # not acknowledged: it may be seen or not
        written.store.wal.rollback()
        assert seen(store) == kept
        del written.spans.known[10:]
        written.log(5)
        assert seen(store) == written.all


def test_rows_that_came_as_arrow_are_seen(written: Written):
    from otlp_arrow.codec.arrow_messages import to_stream

    batch = decode(Signal.TRACES, written.spans.request(7))
    written.store.wal.append([Entry(Signal.TRACES, Encoding.ARROW, 7, 1, to_stream(batch))])
    written.store.wal.sync()
    written.store.wal.confirm()
    with SpanStore.open(written.directory) as store:
        assert seen(store) == written.all


def test_a_unit_that_is_half_written_is_not_seen(written: Written):
    for _ in range(3):
        written.log()
    written.flush()
    (path,) = (written.directory / "otlp" / "traces").iterdir()
    whole = path.read_bytes()
    with SpanStore.open(written.directory) as store:
        assert seen(store) == written.all
    written.release()
    for cut in (1, 9, len(whole) // 2):
        path.write_bytes(whole + whole[:cut])
        with SpanStore.open(written.directory) as store:
            assert seen(store) == written.all
    path.write_bytes(whole)


def test_rows_that_two_segments_hold_are_seen_once(written: Written):
    """What a failed sync may leave whose file could not be cut."""
    for _ in range(4):
        written.log()
    requests = list(written.unstored)
    written.flush(2)
    written.store.close_segment(Signal.TRACES)
    written.unstored = requests[1:]
    written.flush()
    (older, _newer) = sorted((written.directory / "otlp" / "traces").iterdir())
    written.store.write(Signal.TRACES, decode(Signal.TRACES, requests[0][1]), 0, 0) if False else None
    with SpanStore.open(written.directory) as store:
        # The older file's only unit reaches into the newer one's: it is void, and its first request with it.
        assert len(seen(store)) == 30
    assert older.exists()


def test_a_segment_that_goes_while_it_is_asked_breaks_nothing(written: Written):
    for _ in range(6):
        written.log()
        written.flush()
        written.store.close_segment(Signal.TRACES)
    stop = threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                with SpanStore.open(written.directory) as store:
                    found = seen(store)
                    assert found == sorted(set(found))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for path in sorted((written.directory / "otlp" / "traces").iterdir()):
        time.sleep(0.05)
        path.unlink()
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_what_is_no_output_directory_is_an_error(tmp_path: Path):
    with pytest.raises(QueryError, match="no output directory"):
        SpanStore.open(tmp_path / "nothing")
    with pytest.raises(QueryError, match="no directory, no URL"):
        SpanStore.open(object())


# -- indexes -----------------------------------------------------------------------------------------
def indexed(written: Written) -> list[Path]:
    for _ in range(3):
        written.log(50)
        written.flush()
    written.store.close_segment(Signal.TRACES)
    with SpanStore.open(written.directory) as store:
        store.build_indexes()
    return list((written.directory / "state" / "index").iterdir())


def test_an_index_is_used_again_and_made_anew_if_it_is_missing_or_damaged(written: Written):
    (index,) = indexed(written)
    whole = index.read_bytes()
    for content in (
        whole,
        None,
        b"",
        whole[:40],
        whole[:-8],
        whole[:60] + b"\xff" + whole[61:],
        os.urandom(len(whole)),
    ):
        index.unlink() if content is None else index.write_bytes(content)
        with SpanStore.open(written.directory) as store:
            assert seen(store) == written.all
            wanted = written.spans.known[17]
            query = SpanQuery(trace_id=wanted.trace_id, order_direction="ASC", max_spans=1000)
            expected = [span.number for span in asked.select(written.spans.known, query)]
            assert [s.attributes["n"] for s in store.get_trace(wanted.trace_id)] == expected
            store.build_indexes()
        assert index.read_bytes()[:8] == b"OTLPIDX1"


def test_an_index_of_another_file_is_not_believed(written: Written):
    (index,) = indexed(written)
    (path,) = (written.directory / "otlp" / "traces").iterdir()
    units = path.read_bytes()
    written.log(10)
    written.flush()
    path.unlink()  # by hand; and another one takes its name
    (other,) = (written.directory / "otlp" / "traces").iterdir()
    other.rename(path)
    written.spans.known[:] = written.spans.known[-10:]
    with SpanStore.open(written.directory) as store:
        assert seen(store) == written.all
    assert units != path.read_bytes()
    assert index.exists()


def test_an_index_lets_questions_pass_over_units(written: Written):
    indexed(written)
    source = DirectorySource(written.directory)
    units = source.view(Signal.TRACES).units
    summaries = [source.summary(unit) for unit in units]
    assert all(summary is not None for summary in summaries)
    from otlp_arrow.query.index import trace_hash

    for unit, summary in zip(units, summaries, strict=True):
        ids = unit.column("trace_id").to_pylist()
        assert all(summary.may_have_trace(trace_hash(each)) for each in ids)
        assert not summary.may_have_trace(trace_hash(b"\7" * 16))
        assert summary.may_have_word("name", "GET /") == ("GET /" in unit.column("name").to_pylist())
        assert not summary.may_have_word("name", "nothing is called so")


def test_the_index_of_a_deleted_segment_goes_too(written: Written):
    (index,) = indexed(written)
    with SpanStore.open(written.directory) as store:
        assert seen(store) == written.all
        for path in (written.directory / "otlp" / "traces").iterdir():
            path.unlink()
        assert seen(store) == []
    assert not index.exists()


def test_a_directory_that_may_only_be_read_is_answered_all_the_same(written: Written, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert indexed(written) == []
    with SpanStore.open(written.directory) as store:
        assert seen(store) == written.all
