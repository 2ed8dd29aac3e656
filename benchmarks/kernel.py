"""What the compiled kernel costs alone: CPU nanoseconds a record, one thread, no server around it.

Decoding (memory warm, as in a running service, and cold), making the batch, writing it to a segment's Arrow
IPC stream, encoding it back, checksums. The least of several rounds counts: what disturbs a round only adds.

    python benchmarks/kernel.py
    python benchmarks/kernel.py traces-512 --columns    # and what writing each column costs
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable, Iterator

import pyarrow as pa
from payloads import WORKLOADS, Workload

from otlp_arrow.codec import kernel
from otlp_arrow.model import Signal

ROUNDS = 7
ENCODED_ROWS = 4096  # about what a forwarder puts into a request


def cpu_ns(work: Callable[[], object], records: int, rounds: int = ROUNDS) -> float:
    """CPU time of this process a record, the least of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.process_time_ns()
        work()
        times.append(time.process_time_ns() - start)
    return min(times) / records


def measure(workload: Workload) -> dict[str, float]:
    """The figures of one workload, all in nanoseconds a record unless named otherwise."""
    signal = Signal(workload.signal)
    records = workload.records_per_request * len(workload.requests)
    builder = kernel.KernelBuilder(signal)

    def decode() -> None:
        builder.clear()
        for request in workload.requests:
            builder.append([request])

    cold = cpu_ns(decode, records, rounds=1)
    warm = cpu_ns(decode, records)
    held = builder.nbytes / records
    finish = cpu_ns(builder.finish, records)
    batch = builder.finish()
    write, written = cpu_ns(lambda: _write(batch), records), len(_write(batch)) / records
    part = batch.slice(0, ENCODED_ROWS)
    return {
        "wire bytes": workload.bytes_per_record,
        "decode": warm,
        "decode, cold": cold,
        "finish": finish,
        "column bytes": held,
        "IPC write": write,
        "IPC bytes": written,
        "encode": cpu_ns(lambda: kernel.encode(signal, part), part.num_rows),
        "crc32": cpu_ns(lambda: [kernel.crc32(request) for request in workload.requests], records),
        "zlib.crc32": cpu_ns(lambda: [zlib.crc32(request) for request in workload.requests], records),
    }


def _write(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1), use_threads=False)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def columns(workload: Workload) -> Iterator[tuple[float, float, float, str]]:
    """For each leaf of the schema: nanoseconds to write, bytes written, bytes held (all a record), and its path."""
    builder = kernel.KernelBuilder(Signal(workload.signal))
    builder.append(workload.requests)
    batch = builder.finish()
    for field in batch.schema:
        for path, array in _leaves(field.name, batch.column(field.name)):
            alone = pa.RecordBatch.from_arrays([array], names=["values"])
            held = sum(buffer.size for buffer in array.buffers() if buffer is not None)
            yield (
                cpu_ns(lambda alone=alone: _write(alone), batch.num_rows, rounds=3),  # type: ignore[misc]
                len(_write(alone)) / batch.num_rows,
                held / batch.num_rows,
                path,
            )


def _leaves(path: str, array: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    if pa.types.is_map(array.type) or pa.types.is_list(array.type):
        yield f"{path} (offsets)", array.offsets
    if pa.types.is_map(array.type):
        yield from _leaves(f"{path}.key", array.keys)
        yield from _leaves(f"{path}.value", array.items)
    elif pa.types.is_list(array.type):
        yield from _leaves(f"{path}[]", array.values)
    elif pa.types.is_struct(array.type):
        for field in array.type:
            yield from _leaves(f"{path}.{field.name}", array.field(field.name))
    elif pa.types.is_string(array.type):
        yield f"{path} (offsets)", pa.Array.from_buffers(pa.int32(), len(array) + 1, [None, array.buffers()[1]])
        text = array.buffers()[2]
        yield f"{path} (text)", pa.Array.from_buffers(pa.uint8(), text.size, [None, text])
    else:
        yield path, array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=["traces-512", "traces-50", "metrics", "logs"])
    parser.add_argument("--columns", action="store_true", help="what writing each column costs")
    arguments = parser.parse_args()
    for name in arguments.workloads:
        workload = WORKLOADS[name]()
        print(f"{workload.name}")
        for figure, value in measure(workload).items():
            print(f"  {value:9.1f}  {figure}")
        if arguments.columns:
            print("  write ns  bytes written  bytes held")
            for write, written, held, path in sorted(columns(workload), reverse=True)[:30]:
                print(f"  {write:8.1f}  {written:13.2f}  {held:10.1f}  {path}")


if __name__ == "__main__":
    main()
