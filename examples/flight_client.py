"""Rows in and out of a running collector with a stock Arrow Flight client.

    pip install pyarrow
    python flight_client.py grpc://localhost:4319

Lists what is stored, puts every span back under another service's name, and reads the last hour of it.
Give a token with ``--token`` if the collector asks for one.
"""

from __future__ import annotations

import argparse
import datetime
import json

import pyarrow as pa
import pyarrow.flight as flight


def main(location: str, token: str) -> None:
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    options = flight.FlightCallOptions(timeout=30, headers=headers)
    with flight.connect(location) as client:
        for info in client.list_flights(options=options):
            print(f"{info.descriptor.path[0].decode()}: {info.total_records} rows, {info.total_bytes} bytes in files")

        # A ticket may name a time range and columns.
        since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        ticket = flight.Ticket(json.dumps({"signal": "traces", "start": since.isoformat()}))
        spans = client.do_get(ticket, options).read_all()
        if not spans.num_rows:
            print("no spans of the last hour to put back")
            return

        copies = spans.set_column(
            spans.schema.get_field_index("service_name"), "service_name", pa.array(["copy"] * spans.num_rows)
        ).unify_dictionaries()  # else each batch would send its own
        writer, acknowledgements = client.do_put(flight.FlightDescriptor.for_path("traces"), copies.schema, options)
        with writer:
            for batch in copies.to_batches(max_chunksize=512):
                writer.write_batch(batch)
                durable = json.loads(acknowledgements.read().to_pybytes())
                print(f"{durable['rows']} rows are durable, frame {durable['sequence']} of the log")

        names = flight.Ticket(json.dumps({"signal": "traces", "columns": ["service_name", "name"]}))
        stored = client.do_get(names, options).read_all()
        print(f"{stored.column('service_name').to_pylist().count('copy')} copies of {stored.num_rows} spans")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("location", nargs="?", default="grpc://localhost:4319")
    parser.add_argument("--token", default="")
    arguments = parser.parse_args()
    main(arguments.location, arguments.token)
