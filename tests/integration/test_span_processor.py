"""The span processor as the SDK uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Status, StatusCode

from otlp_arrow import OtlpConfigError, OtlpLibrary
from otlp_arrow.app.library import in_process_settings
from otlp_arrow.model import DirectoryLocked, Signal
from otlp_arrow.query import SpanQuery, SpanStore
from otlp_arrow.sdk import ArrowLogExporter, FileBasedSpanProcessor
from served import clean_environment


def tracing(processor: FileBasedSpanProcessor) -> Any:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider.get_tracer("test")


def end_spans(processor: FileBasedSpanProcessor, *numbers: int, **attributes: Any) -> None:
    tracer = tracing(processor)
    for number in numbers:
        with tracer.start_as_current_span(f"span {number}", attributes={"number": number, **attributes}):
            pass


def numbers(store: FileBasedSpanProcessor | SpanStore) -> list[int]:
    found = store.query_spans(SpanQuery(max_spans=100_000, order_direction="ASC"))
    return sorted(span.attributes["number"] for span in found)


def segments(directory: Path) -> list[Path]:
    return sorted((directory / "otlp" / "traces").glob("*.arrows"))


@pytest.fixture
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., FileBasedSpanProcessor]:
    def made(**settings: Any) -> FileBasedSpanProcessor:
        processor = FileBasedSpanProcessor(tmp_path, **settings)
        request.addfinalizer(processor.shutdown)
        return processor

    return made


def test_a_question_sees_the_spans_that_ended_before_it(make: Callable[..., FileBasedSpanProcessor]):
    processor = make()
    tracer = tracing(processor)
    with tracer.start_as_current_span("outer") as outer, tracer.start_as_current_span("inner") as inner:
        inner.set_attribute("error.type", "TimeoutError")
        inner.set_status(Status(StatusCode.ERROR, "too late"))
    trace_id = f"{outer.get_span_context().trace_id:032x}"
    assert [span.name for span in processor.get_trace(trace_id)] == ["outer", "inner"]
    (failed,) = processor.recent_failures(hours=1)
    assert (failed.name, failed.status_description) == ("inner", "too late")
    assert processor.filter_by_error_type("TimeoutError") == [failed]
    assert processor.filter_by_status("ERROR", "1h") == [failed]
    assert processor.filter_by_attribute("error.type", "TimeoutError") == [failed]
    assert len(processor.filter_by_time(duration="1h")) == 2
    assert processor.should_retry(trace_id).decision == "RETRY"
    assert processor.dropped == 0
    assert "max_spans=100000" in repr(processor)


def test_what_was_kept_is_there_after_a_restart(make: Callable[..., FileBasedSpanProcessor], tmp_path: Path):
    first = make(max_spans=100)
    end_spans(first, *range(100))
    kept = numbers(first)
    first.shutdown()
    assert numbers(first) == kept  # questions are answered on
    second = make(max_spans=100)
    assert numbers(second) == kept
    assert kept[-1] == 99
    end_spans(second, 100)
    assert numbers(second)[-1] == 100


def test_a_bound_in_spans_lets_the_oldest_go_and_is_never_passed(
    make: Callable[..., FileBasedSpanProcessor], tmp_path: Path
):
    processor = make(max_spans=80)
    for last in range(20, 201, 20):
        end_spans(processor, *range(last - 20, last))
        kept = numbers(processor)
        assert kept == list(range(last - len(kept), last))  # the newest, none missing between
        assert min(last, 60) <= len(kept) <= 80
    assert len(segments(tmp_path)) <= 9
    assert processor.dropped == 0


def test_one_span_may_be_the_bound(make: Callable[..., FileBasedSpanProcessor]):
    processor = make(max_spans=1)
    end_spans(processor, 1, 2, 3)
    assert numbers(processor) == [3]


def test_a_bound_in_bytes_lets_the_oldest_go_and_is_never_passed(
    make: Callable[..., FileBasedSpanProcessor], tmp_path: Path
):
    bound = 512 * 1024
    processor = make(max_bytes=bound)
    for first in range(0, 400, 50):
        for number in range(first, first + 50):
            end_spans(processor, number, noise=os.urandom(1000).hex())
        assert processor.force_flush()
        assert sum(path.stat().st_size for path in segments(tmp_path)) <= bound
    kept = numbers(processor)
    assert kept == list(range(400 - len(kept), 400))
    assert len(kept) >= 150


def test_a_lower_bound_holds_for_what_an_earlier_run_left(make: Callable[..., FileBasedSpanProcessor]):
    first = make(max_spans=1000)
    end_spans(first, *range(500))
    first.shutdown()
    kept = numbers(make(max_spans=300))
    assert kept == list(range(500 - len(kept), 500))
    assert 150 <= len(kept) <= 300


def test_a_full_queue_drops_counts_and_does_not_make_anybody_wait(
    make: Callable[..., FileBasedSpanProcessor], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    processor = make(max_queue_size=10)
    begun, go = threading.Event(), threading.Event()
    deliver = processor._delivery.deliver

    def slow(export: Any) -> bool:
        begun.set()
        go.wait(20)
        return deliver(export)

    processor._delivery.deliver = slow  # type: ignore[method-assign]
    end_spans(processor, 0)
    processor._queue.wait_handled(0)
    assert begun.wait(10)
    end_spans(processor, *range(1, 31))
    assert processor.dropped == 20
    assert not processor.force_flush(timeout_millis=10)
    go.set()
    assert processor.force_flush()
    assert numbers(processor) == list(range(11))
    assert (caplog.text + capsys.readouterr().out).count("spans are dropped") == 1


def test_shutting_down_stores_what_waits_and_later_spans_are_dropped(make: Callable[..., FileBasedSpanProcessor]):
    processor = make()
    end_spans(processor, *range(700))
    processor.shutdown()
    processor.shutdown()
    assert processor.force_flush()
    end_spans(processor, 1000)
    assert processor.dropped == 1
    assert numbers(processor) == list(range(700))


def test_shutting_down_gives_up_in_time_and_counts_what_was_not_stored(make: Callable[..., FileBasedSpanProcessor]):
    processor = make()
    begun, go = threading.Event(), threading.Event()

    def stuck(export: Any) -> bool:
        begun.set()
        return not go.wait(20)

    processor._delivery.deliver = stuck  # type: ignore[method-assign]
    end_spans(processor, 0)
    processor._queue.wait_handled(0)
    assert begun.wait(10)
    end_spans(processor, 1, 2)
    processor.shutdown(timeout_millis=50)
    assert processor.dropped == 2
    go.set()


def test_what_cannot_be_stored_is_counted_and_the_next_spans_are_stored(make: Callable[..., FileBasedSpanProcessor]):
    processor = make()
    processor._queue.put("no span")  # type: ignore[arg-type]
    assert processor.force_flush()
    assert processor.dropped == 1
    end_spans(processor, 5)
    assert numbers(processor) == [5]


def test_spans_that_are_not_sampled_are_not_kept(tmp_path: Path, make: Callable[..., FileBasedSpanProcessor]):
    processor = make()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    with provider.get_tracer("test").start_as_current_span("unseen"):
        pass
    assert processor.force_flush()
    assert len(processor.query_spans(SpanQuery())) == 0


def test_a_log_exporter_may_share_the_directory_and_another_process_may_not(
    tmp_path: Path, make: Callable[..., FileBasedSpanProcessor]
):
    processor = make()
    exporter = ArrowLogExporter(output_dir=tmp_path)
    exporter.shutdown()
    end_spans(processor, 1)
    assert numbers(processor) == [1]
    with pytest.raises(DirectoryLocked):
        OtlpLibrary(in_process_settings(tmp_path))


@pytest.mark.parametrize("settings", [{"max_spans": 0}, {"max_bytes": 1}, {"max_queue_size": 0}, {"max_spans": True}])
def test_bounds_that_cannot_be_meant_are_refused_by_name(tmp_path: Path, settings: dict[str, Any]):
    with pytest.raises(OtlpConfigError, match=next(iter(settings))):
        FileBasedSpanProcessor(tmp_path, **settings)


def test_the_library_lets_the_oldest_segments_of_one_signal_go(make: Callable[..., FileBasedSpanProcessor]):
    processor = make(max_spans=1000)
    end_spans(processor, *range(10))
    assert processor.force_flush()
    library = processor._delivery.library
    assert library.keep_newest(Signal.LOGS, 0, 0) == 0
    assert library.keep_newest(Signal.TRACES, 10, 10**9) == 0
    assert library.keep_newest(Signal.TRACES, 9, 10**9) == 10
    assert numbers(processor) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_in_the_child_of_a_fork_spans_are_dropped_and_the_parent_goes_on(tmp_path: Path):
    program = textwrap.dedent(
        """
        import logging, os, sys, warnings
        warnings.simplefilter("ignore")
        from opentelemetry.sdk.trace import TracerProvider
        from otlp_arrow.sdk import FileBasedSpanProcessor
        processor = FileBasedSpanProcessor(sys.argv[1])
        provider = TracerProvider()
        provider.add_span_processor(processor)
        tracer = provider.get_tracer("t")
        def end(name):
            with tracer.start_as_current_span(name) as span:
                return f"{span.get_span_context().trace_id:032x}"
        end("before")
        child = os.fork()
        if child == 0:
            end("child")
            assert processor.dropped == 1 and processor.force_flush()
            processor.shutdown()
            sys.stdout.flush()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        trace = end("after")
        assert [span.name for span in processor.get_trace(trace)] == ["after"]
        os.kill(os.getpid(), 9)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert "belongs to the process that forked" in done.stdout + done.stderr
    processor = FileBasedSpanProcessor(tmp_path)  # after kill -9
    try:
        names = [span.name for span in processor.query_spans(SpanQuery(order_direction="ASC"))]
    finally:
        processor.shutdown()
    assert names == ["before", "after"]
