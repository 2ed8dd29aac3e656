"""CSV made column by column is the CSV of the records."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shop
import strategies
from otlp_arrow.cli import csv_columns, written
from otlp_arrow.codec import new_builder
from otlp_arrow.model import Signal
from otlp_arrow.query import Logs, Points, Spans

KINDS = {Signal.TRACES: Spans, Signal.LOGS: Logs, Signal.METRICS: Points}
SHOP = {Signal.TRACES: shop.traces, Signal.LOGS: shop.logs, Signal.METRICS: shop.metrics}


def of_columns(signal: Signal, batch: pa.RecordBatch) -> str:
    text = io.StringIO(newline="")
    csv_columns.write_head(signal, text)
    csv_columns.write_rows(signal, batch, text)
    return text.getvalue()


def of_records(signal: Signal, batch: pa.RecordBatch) -> str:
    records = KINDS[signal](batch)
    return written.csv_text(records.columns(), (each.values() for each in records.to_dicts()))


def batch_of(signal: Signal, *payloads: bytes) -> pa.RecordBatch:
    builder = new_builder(signal)
    builder.append(list(payloads))
    return builder.finish()


@pytest.mark.parametrize("signal", Signal)
def test_the_shops_records(signal: Signal):
    batch = batch_of(signal, SHOP[signal]())
    assert of_columns(signal, batch) == of_records(signal, batch)
    assert of_columns(signal, batch.slice(3, 2)) == of_records(signal, batch.slice(3, 2))
    assert of_columns(signal, batch.slice(0, 0)) == of_records(signal, batch.slice(0, 0))


@pytest.mark.parametrize("signal", Signal)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=60)
@given(data=st.data())
def test_drawn_records(signal: Signal, data: st.DataObject):
    filled = data.draw(st.booleans())
    batch = batch_of(signal, data.draw(strategies.requests(signal, filled=filled)).SerializeToString())
    assert of_columns(signal, batch) == of_records(signal, batch)
    start = data.draw(st.integers(0, batch.num_rows))
    assert of_columns(signal, batch.slice(start)) == of_records(signal, batch.slice(start))
