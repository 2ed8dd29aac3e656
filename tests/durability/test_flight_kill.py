"""Kill -9 while Flight clients put: every acknowledged batch is there afterwards, and no row twice."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from arrow_forms import batch_of, foreign, with_column
from otlp_arrow.codec.arrow_messages import to_stream
from otlp_arrow.model import Signal, limits
from served import Served

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")

ROWS = 100
BATCH = pa.ipc.open_stream(to_stream(batch_of(Signal.TRACES).slice(0, ROWS))).read_next_batch()
assert len(to_stream(BATCH)) > 2 * limits.IN_PLACE_BYTES, "written to the log from where they were received"


def numbered(client: int, number: int) -> pa.RecordBatch:
    """A batch whose spans have names of their own. One client sends other types, one the columns in another order and
    not all of them."""
    names = pa.array([f"{client}.{number}.{row}" for row in range(ROWS)]).dictionary_encode()
    batch = with_column(BATCH, "name", names)
    if client % 10 == 1:
        return foreign(batch)
    return batch.select([n for n in batch.schema.names[::-1] if n != "trace_state"]) if client % 10 == 2 else batch


class Putter:
    """Puts until the connection breaks; ``acknowledged`` and ``sent`` are numbers of batches."""

    def __init__(self, port: int, client: int) -> None:
        self.client = client
        self.acknowledged = self.sent = 0
        self._connection = flight.connect(("localhost", port))
        schema = numbered(client, 0).schema
        self._writer, self._reader = self._connection.do_put(flight.FlightDescriptor.for_path("traces"), schema)
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        try:
            while True:
                self.sent += 1
                self._writer.write_batch(numbered(self.client, self.sent))
        except (pa.ArrowException, flight.FlightError, OSError):
            pass  # killed

    def _receive(self) -> None:
        while (result := self._read()) is not None:
            assert json.loads(result)["rows"] == ROWS
            self.acknowledged += 1

    def _read(self) -> bytes | None:
        try:
            buffer = self._reader.read()
        except (pa.ArrowException, flight.FlightError, OSError):
            return None
        return None if buffer is None else buffer.to_pybytes()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        try:
            self._writer.close()
        except (pa.ArrowException, flight.FlightError, OSError):
            pass
        self._connection.close()


@pytest.mark.parametrize("engine", ["compiled", "grpcio"])
def test_what_a_flight_client_was_acknowledged_is_there_once_after_kills(tmp_path: Path, engine: str):
    expected: set[str] = set()
    possible: set[str] = set()
    for round_number in range(3):
        # Rows go to segments while the next are put: the kill finds them on every stage of their way.
        options = ["--set", "max_batch_rows=200", "--set", f"protocols.arrow_flight_engine={engine}"]
        with Served(tmp_path, "--write-interval-secs", "1", *options) as served:
            putters = [Putter(served.flight_port, round_number * 10 + client) for client in range(3)]
            while min(putter.acknowledged for putter in putters) < 15 * (round_number + 1):
                putters[0]._threads[0].join(0.005)
            served.process.send_signal(signal.SIGKILL)
            served.process.wait(30)
            for putter in putters:
                putter.join()
        for putter in putters:
            for number in range(1, putter.sent + 1):
                names = {f"{putter.client}.{number}.{row}" for row in range(ROWS)}
                possible |= names
                if number <= putter.acknowledged:
                    expected |= names

    with Served(tmp_path) as served, flight.connect(("localhost", served.flight_port)) as client:
        ticket = flight.Ticket(b'{"signal": "traces", "columns": ["name"]}')
        found = Counter(client.do_get(ticket).read_all()["name"].to_pylist())
        assert served.stop() == 0
    assert expected - set(found) == set()
    assert set(found) - possible == set()
    assert max(found.values()) == 1
