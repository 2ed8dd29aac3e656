"""The floor for Flight: a stock pyarrow.flight server that reads every batch, drops it, and says it has the rows."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.flight as flight


class Bare(flight.FlightServerBase):  # type: ignore[misc]
    def do_put(
        self,
        context: flight.ServerCallContext,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        for chunk in reader:
            writer.write(pa.py_buffer(b'{"rows": %d, "sequence": 0}' % chunk.data.num_rows))

    def do_action(self, context: flight.ServerCallContext, action: flight.Action) -> Iterator[bytes]:
        return iter(())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4319)
    Bare(f"grpc://localhost:{parser.parse_args().port}").serve()
