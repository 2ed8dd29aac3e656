# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled kernel: OTLP requests into Arrow's buffers, without an object per record.

``kernel.py`` puts a face on it. The scan is plain C over structs, written in Cython, and holds no GIL;
only the classes at the end of this file touch Python. It reads in this order: ``wire`` (protobuf),
``buffers`` (what is written), ``keywords`` (dictionaries), ``values`` and ``json_text`` (attributes),
``origin`` (what all signals share), then ``traces``, ``metrics``, ``logs``; ``gather`` takes batches of Arrow clients.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from libc.math cimport INFINITY, NAN, isinf, isnan
from libc.stdint cimport INT32_MAX, INT64_MAX, UINT32_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset, strlen

import os

from otlp_arrow.model import limits

cdef extern from "kernel_parts/bytes.h" nogil:
    const int SHORT_BYTES
    bint likely "kernel_likely"(bint condition)
    bint unlikely "kernel_unlikely"(bint condition)
    uint32_t load32(const uint8_t* at)
    uint64_t load64(const uint8_t* at)
    bint short_equal(const uint8_t* a, const uint8_t* b, size_t n)
    bint short_copy_ascii(uint8_t* to, const uint8_t* text, size_t n)
    bint copy_ascii(uint8_t* to, const uint8_t* text, size_t n)
    bint is_ascii(const uint8_t* text, size_t n)
    bint is_utf8(const uint8_t* text, size_t n)
    uint32_t hash_bytes(const uint8_t* data, size_t n, uint64_t key)
    void name_this_thread(const char* name)

cdef extern from "kernel_parts/bitmaps.h" nogil:
    const int BITS_STR, BITS_INT, BITS_DOUBLE, BITS_BOOL, BITS_BYTES, BITS_TRUE, VALUE_BITMAPS
    int bits_of_types(const uint8_t* raw, size_t n, uint8_t* types, uint8_t* const* bits)
    bint bits_where_byte(const uint8_t* values, size_t n, uint8_t a, uint8_t b, uint8_t c, uint8_t* bits)
    bint bits_where_flag(const uint8_t* values, size_t n, uint8_t flag, uint8_t* bits)
    bint bits_where_not_zero(const uint64_t* values, size_t n, uint8_t* bits)
    bint bits_where_not_zero_pair(const uint64_t* values, size_t n, uint8_t* bits)
    bint bits_where_not_empty(const int32_t* offsets, size_t n, uint8_t* bits)
    size_t bits_count(const uint8_t* bits, size_t n)
    size_t bits_likenesses(const uint8_t* bits, size_t first, size_t count, size_t times)
    bint bits_where_not_negative(const int32_t* values, size_t n, uint8_t* bits)

cdef extern from "kernel_parts/doubles.h" nogil:
    const int DOUBLE_CHARS
    int double_to_text(double value, char* text)
    void doubles_prepare()
    bint double_of_text(const char* text, double* value)

cdef extern from "kernel_parts/crc32.h" nogil:
    void crc32_prepare()
    uint32_t crc32_update(uint32_t value, const uint8_t* data, size_t size)
    enum: CRC32_WAYS
    int crc32_every_way(uint32_t value, const uint8_t* data, size_t size, uint32_t* crcs)

cdef extern from "kernel_parts/zstd_columns.h" nogil:
    size_t bytes_alike "zstd_alike"(const uint8_t* at, const uint8_t* other, const uint8_t* end)
    ctypedef struct ZstdRun:
        const uint8_t* data
        size_t size
        size_t times
    const size_t ZSTD_MAX_RUN

cdef extern from "kernel_parts/zstd_body.h" nogil:
    ctypedef struct ZstdOut:
        uint8_t* data
        size_t size
        size_t capacity
        bint no_memory
    ctypedef struct ZstdWork:
        pass
    ctypedef enum ZstdKind:
        ZSTD_AS_ANY
        ZSTD_AS_ELEMENTS
        ZSTD_AS_OFFSETS
        ZSTD_AS_TEXT
        ZSTD_AS_RUNS
        ZSTD_AS_VALIDITY
    ctypedef struct ZstdBuffer:
        const uint8_t* data
        size_t size
        ZstdKind kind
        size_t width
        const void* beside
        size_t count
        int64_t* nulls
        int64_t* place
    ctypedef enum ZstdResult:
        ZSTD_DONE
    ZstdResult zstd_frame_of "zstd_frame"(const ZstdBuffer* buffer, ZstdWork* work, ZstdOut* out)
    size_t zstd_body(const ZstdBuffer* buffers, size_t first, size_t count, ZstdWork* work, ZstdOut* out)
    void zstd_body_put(const ZstdBuffer* buffer, const uint8_t* frame, size_t size, ZstdOut* out)

cdef extern from "kernel_parts/zstd_read.h" nogil:
    size_t zstd_content(const uint8_t* frame, size_t size)
    int zstd_constant_of(const uint8_t* frame, size_t size)
    bint zstd_unwords(const uint8_t* frame, size_t size, uint32_t* out, size_t count)

cdef extern from "Python.h":
    double PyOS_string_to_double(const char* text, char** end, void* overflow_exception)

cdef enum:
    MAX_MESSAGE_DEPTH = 100  # model/limits.py; compared below

include "kernel_parts/wire.pxi"
include "kernel_parts/buffers.pxi"
include "kernel_parts/keywords.pxi"
include "kernel_parts/values.pxi"
include "kernel_parts/json_text.pxi"
include "kernel_parts/repeated.pxi"
include "kernel_parts/origin.pxi"
include "kernel_parts/traces.pxi"
include "kernel_parts/metrics.pxi"
include "kernel_parts/logs.pxi"
include "kernel_parts/flatbuffers.pxi"
include "kernel_parts/gather.pxi"
include "kernel_parts/likeness.pxi"
include "kernel_parts/assembly.pxi"
include "kernel_parts/views.pxi"
include "kernel_parts/writer.pxi"
include "kernel_parts/json_value.pxi"
include "kernel_parts/encode.pxi"
include "kernel_parts/encode_traces.pxi"
include "kernel_parts/encode_metrics.pxi"
include "kernel_parts/encode_logs.pxi"
include "kernel_parts/bounds.pxi"
include "kernel_parts/packing.pxi"

if limits.MAX_MESSAGE_DEPTH != MAX_MESSAGE_DEPTH or limits.MAX_REJECTION_REASONS > MAX_REASONS:
    raise ImportError("the compiled kernel was built for other limits than model/limits.py has now; build it again")

crc32_prepare()
doubles_prepare()
HASH_KEY = int.from_bytes(os.urandom(8), "little")

cdef enum:
    SCANNED_WITH_GIL = 8192  # bytes; 8 us at most. Letting go of it and waiting for it costs more than that
    COPIED_WITH_GIL = 65536  # the same for work that takes a tenth of a nanosecond a byte
    READ_WITH_GIL = 1048576  # bytes; 0.3 ms. A question reads dozens of columns, and would wait for it each time


def crc32(data, value: int = 0) -> int:
    """As ``zlib.crc32``, several times as fast. Holds no GIL for more than a few microseconds' worth of data."""
    cdef Py_buffer view
    cdef uint32_t crc = <uint32_t>(value & 0xFFFFFFFF)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    if view.len > COPIED_WITH_GIL:
        with nogil:
            crc = crc32_update(crc, <const uint8_t*>view.buf, view.len)
    else:
        crc = crc32_update(crc, <const uint8_t*>view.buf, view.len)
    PyBuffer_Release(&view)
    return crc


def crc32_each(pieces) -> list[int]:
    """Of each sequence of buffers the checksum of all of them, one after the other; the GIL is let go at most once."""
    cdef list flat = []
    cdef list counts = []
    cdef size_t count, checksums = len(pieces), each, piece, at = 0, opened = 0, total = 0
    cdef Py_buffer* views
    cdef size_t* ends = <size_t*>calloc(checksums + 1, sizeof(size_t))
    cdef uint32_t* crcs = <uint32_t*>calloc(checksums + 1, sizeof(uint32_t))
    for some in pieces:
        flat += some
        counts.append(len(some))
    count = len(flat)
    views = <Py_buffer*>calloc(count + 1, sizeof(Py_buffer))
    try:
        if views == NULL or ends == NULL or crcs == NULL:
            raise MemoryError
        for piece in range(count):
            PyObject_GetBuffer(flat[piece], &views[piece], PyBUF_SIMPLE)
            opened += 1
            total += views[piece].len
        for each in range(checksums):
            at += <size_t>counts[each]
            ends[each] = at
        if total > COPIED_WITH_GIL:
            with nogil:
                crc32_of_all(views, ends, checksums, crcs)
        else:
            crc32_of_all(views, ends, checksums, crcs)
        return [crcs[each] for each in range(checksums)]
    finally:
        for piece in range(opened):
            PyBuffer_Release(&views[piece])
        free(views)
        free(ends)
        free(crcs)


cdef void crc32_of_all(const Py_buffer* views, const size_t* ends, size_t count, uint32_t* crcs) noexcept nogil:
    cdef size_t each, at = 0
    for each in range(count):
        while at < ends[each]:
            crcs[each] = crc32_update(crcs[each], <const uint8_t*>views[at].buf, views[at].len)
            at += 1


def crc32_ways(data, value: int = 0) -> list[int]:
    """``crc32`` in every way that this machine can compute it, other machines' ways included."""
    cdef Py_buffer view
    cdef uint32_t crcs[CRC32_WAYS]
    cdef int way, ways
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    ways = crc32_every_way(<uint32_t>(value & 0xFFFFFFFF), <const uint8_t*>view.buf, view.len, crcs)
    PyBuffer_Release(&view)
    return [crcs[way] for way in range(ways)]


def copy_out(target, at: int, source) -> None:
    """Copy the bytes of ``source`` to ``target``, a writable buffer, from byte ``at`` on; large ones without the GIL.
    Raises ``ValueError`` if they reach beyond its end."""
    cdef Py_buffer to, view
    cdef Py_ssize_t place = at
    PyObject_GetBuffer(target, &to, PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(source, &view, PyBUF_SIMPLE)
        try:
            if place < 0 or view.len > to.len - place:
                raise ValueError(f"{view.len} bytes at {place} do not fit into {to.len}")
            if view.len > COPIED_WITH_GIL:
                with nogil:
                    memcpy(<uint8_t*>to.buf + place, <const uint8_t*>view.buf, view.len)
            else:
                memcpy(<uint8_t*>to.buf + place, <const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
    finally:
        PyBuffer_Release(&to)


def address_of(data) -> int:
    """Where contiguous bytes lie in memory."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    address = <uintptr_t>view.buf
    PyBuffer_Release(&view)
    return address


def is_record_batch(bytes header) -> bool:
    """Whether this is the flatbuffer of a record batch's message, as far as its first fields say."""
    cdef Flat flat
    cdef FlatTable message
    cdef size_t field
    cdef uint32_t root
    flat.data = <Position>PyBytes_AS_STRING(header)
    flat.size = <size_t>PyBytes_GET_SIZE(header)
    return (
        flat32(&flat, 0, &root)
        and flat_table(&flat, root, &message)
        and flat_field(&flat, &message, MESSAGE_HEADER_TYPE, 1, &field)
        and field != 0
        and flat.data[field] == HEADER_BATCH
    )


def name_thread(name: str) -> None:
    """Call the thread that asks so in the system's lists, cut to 15 bytes. Python tells the system itself from 3.14 on."""
    encoded = name.encode()
    name_this_thread(encoded)


def memory_bytes(address: int, size: int) -> bytes:
    """A copy of the ``size`` bytes at ``address``."""
    return PyBytes_FromStringAndSize(<const char*><uintptr_t>address, size)


def count_bits(address: int, rows: int) -> int:
    """How many of the first ``rows`` bits at ``address`` are set."""
    return bits_count(<const uint8_t*><uintptr_t>address, rows)


def zstd_frame(address: int, size: int, width: int, offsets: bool = False) -> bytes | None:
    """The ``size`` bytes at ``address`` as a Zstandard frame, if they are one byte over and over, elements of ``width``
    bytes (1, 4, 8 or 16) that are like others before them or, with ``offsets``, growing numbers of four bytes; else
    None: then the library's compressor does better, or nobody."""
    cdef ZstdBuffer buffer
    memset(&buffer, 0, sizeof(buffer))
    buffer.data = <const uint8_t*><uintptr_t>address
    buffer.size = size
    buffer.width = width if width in (1, 4, 8, 16) else 0
    buffer.kind = ZSTD_AS_OFFSETS if offsets else ZSTD_AS_ELEMENTS if buffer.width else ZSTD_AS_ANY
    return packed_frame(&buffer)


def zstd_text(address: int, size: int, ends: int, count: int) -> bytes | None:
    """The ``size`` bytes of text at ``address`` as a Zstandard frame, or None, as ``zstd_frame``. Strings end at
    the ``count`` numbers of four bytes at ``ends``, which do not fall."""
    cdef ZstdBuffer buffer
    memset(&buffer, 0, sizeof(buffer))
    buffer.data = <const uint8_t*><uintptr_t>address
    buffer.size = size
    buffer.kind = ZSTD_AS_TEXT
    buffer.beside = <const void*><uintptr_t>ends
    buffer.count = count
    return packed_frame(&buffer)


def zstd_runs(address: int, size: int, count: int) -> bytes:
    """The ``size`` bytes, at least one, that the ``count`` runs at ``address`` are, as a Zstandard frame."""
    cdef ZstdBuffer buffer
    memset(&buffer, 0, sizeof(buffer))
    buffer.data = <const uint8_t*><uintptr_t>address
    buffer.size = size
    buffer.kind = ZSTD_AS_RUNS
    buffer.count = count
    return packed_frame(&buffer)


def zstd_beginning(frame, size: int) -> bytes | int | None:
    """The first ``size`` bytes in a frame of ``zstd_frame``; a number if they are all this byte. None if somebody else
    wrote the frame, or less is in it: then the library's decompressor is to be asked."""
    cdef Py_buffer view
    cdef const uint8_t* data
    cdef uint32_t* out
    cdef size_t count = size
    cdef int byte
    cdef bint fine = False
    PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
    try:
        data = <const uint8_t*>view.buf
        if count == 0 or zstd_content(data, view.len) < count:
            return None
        byte = zstd_constant_of(data, view.len)
        if byte >= 0:
            return byte
        if count % 4:
            return None
        found = PyBytes_FromStringAndSize(NULL, size)
        out = <uint32_t*>PyBytes_AS_STRING(found)
        if count <= READ_WITH_GIL:
            fine = zstd_unwords(data, view.len, out, count // 4)
        else:
            with nogil:
                fine = zstd_unwords(data, view.len, out, count // 4)
        return found if fine else None
    finally:
        PyBuffer_Release(&view)


def double_text(value: float) -> str:
    """A finite double as JSON text has it: what ``repr`` gives."""
    cdef char text[64]
    cdef int length = double_to_text(value, text)
    return text[:length].decode()


def text_double(text: bytes) -> float:
    """A number of JSON as a double: what ``float`` gives."""
    cdef double value
    if not text_to_double(text, &value):
        raise ValueError(f"no number: {text!r}")
    return value


def encode(signal: str, array) -> bytes | None:
    """The request of a batch, or ``None`` if something in it is unusual.

    ``signal`` is "traces", "metrics" or "logs"; ``array`` the capsule of an ``ArrowArray`` that has the
    schema's columns in their order and passed ``validate``.
    """
    cdef ArrowArray* batch = <ArrowArray*>PyCapsule_GetPointer(array, "arrow_array")
    cdef Encoding encoding
    cdef TracesView traces
    cdef MetricView metrics
    cdef LogsView logs
    cdef bint fine
    cdef int kind = ["traces", "metrics", "logs"].index(signal)
    memset(&encoding, 0, sizeof(encoding))
    encoding.rows = batch.length
    try:
        with nogil:
            if kind == 0:
                encoding.columns = &traces
                encoding.write_record = write_span
                fine = see_traces(&traces, batch.children)
            elif kind == 1:
                encoding.metrics = &metrics
                encoding.write_record = write_metric
                fine = see_metrics(&metrics, batch.children)
            else:
                encoding.columns = &logs
                encoding.write_record = write_log_record
                fine = see_logs(&logs, batch.children)
            fine = (
                fine
                and see_origin(&encoding.origin, &batch.children[batch.n_children - ORIGIN_COLUMNS])
                and encode_request(&encoding)
            )
        if encoding.bounds.fault == OUT_OF_MEMORY or encoding.out.no_memory or encoding.message.no_memory:
            raise MemoryError("no memory for a request")
        if not fine or writer_size(&encoding.out) > INT32_MAX:
            return None
        return PyBytes_FromStringAndSize(
            <const char*>encoding.out.data + encoding.out.at, writer_size(&encoding.out)
        )
    finally:
        encoding_end(&encoding)
