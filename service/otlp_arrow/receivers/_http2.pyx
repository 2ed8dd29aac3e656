# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One HTTP/2 connection of a gRPC server: bytes in, calls out, bytes out. No clock; a socket only where ``read`` is given
one, so that a message goes from there into its own memory, across the frames that it comes in.

HTTP/2 is RFC 9113, its header compression RFC 7541, the five bytes before a message are those of the gRPC
protocol ("PROTOCOL-HTTP2"). A message goes from the receive buffer straight into the ``bytes`` object
that the pipeline keeps, or, where much of it is still to come, from the socket (``offer``); header blocks that
a client repeats are decoded once; large answers go out as pieces of what they were handed over as.

A call has one message, unless its owner says ``take_many``: then each message is handed over when it is whole, and its bytes
count against the windows of call and connection until they are ``consumed``, which is what holds a client back.

What a peer may cost is bounded here: header blocks, header lists, frames, messages, streams, and frames that
do nothing (``nuisance``). A connection error queues a GOAWAY and sets ``closed``.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, _PyBytes_Resize
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy

import os

cdef enum:  # frame types
    F_DATA = 0
    F_HEADERS = 1
    F_PRIORITY = 2
    F_RST_STREAM = 3
    F_SETTINGS = 4
    F_PUSH_PROMISE = 5
    F_PING = 6
    F_GOAWAY = 7
    F_WINDOW_UPDATE = 8
    F_CONTINUATION = 9

cdef enum:  # flags
    END_STREAM = 0x01
    ACK = 0x01
    END_HEADERS = 0x04
    PADDED = 0x08
    PRIORITY = 0x20

cdef enum:  # error codes
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11

cdef enum:  # where the parser stands
    IN_PREFACE
    IN_HEAD
    IN_DATA
    IN_PAYLOAD

cdef enum:
    PREFACE_BYTES = 24
    HEAD_BYTES = 9
    MAX_CONTROL_FRAME = 16384
    TABLE_BYTES = 4096  # SETTINGS_HEADER_TABLE_SIZE as it is by default
    ENTRY_OVERHEAD = 32  # RFC 7541, 4.1
    FIRST_CAPACITY = 1 << 18  # a message's memory grows from here as its bytes come: a length alone costs nothing
    # The same in a call of many messages, whose owner is asked before: memory that nothing came to costs nothing yet, and
    # messages that grow are copied.
    STREAM_CAPACITY = 1 << 24
    DIRECT_BYTES = 1 << 14  # less than this is read with what follows it
    BESIDE_BYTES = 1 << 14  # where large messages follow one another: what is read beside their memory is copied
    READ_WITH_GIL = 1 << 16  # a read of more lets others run meanwhile: 10 us and more
    WHOLE_BYTES = 1 << 12  # an answer's piece of this size goes out as it is, a smaller one with its neighbours
    LAID_OUT_BYTES = 1 << 16  # a message from this size on is laid out as its owner wishes
    PAGE_BYTES = 4096
    CACHED_BLOCKS = 16
    # Memory of huge pages, for messages that are laid out: what is taken at a time, a multiple of their size; what is not
    # given back as long as such messages come; and what there may be of it. Beyond that messages lie in ordinary memory:
    # a block is held by the last message in it, so that few bytes might hold much.
    HUGE_BLOCK_BYTES = 4 << 20
    HUGE_KEPT_BYTES = 16 << 20
    HUGE_MOST_BYTES = 64 << 20
    HUGE_SPARES = 16

cdef extern from "Python.h":
    int PyBUF_WRITE

cdef extern from *:
    """
    #include <errno.h>
    #ifdef _WIN32
    #define OTLP_READS_SOCKETS 0
    struct iovec { void *iov_base; size_t iov_len; };
    static Py_ssize_t readv(int descriptor, const struct iovec *parts, int count) { errno = ENOSYS; return -1; }
    #else
    #define OTLP_READS_SOCKETS 1
    #include <sys/uio.h>
    #endif
    """
    const int OTLP_READS_SOCKETS
    struct iovec:
        void* iov_base
        size_t iov_len
    Py_ssize_t readv(int descriptor, const iovec* parts, int count) nogil

cdef extern from *:
    """
    #if defined(__linux__)
    #include <stdint.h>
    #include <sys/mman.h>
    #endif
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
    #define OTLP_HUGE_PAGE_BYTES ((size_t)2 << 20)
    /* NULL: the system has no memory, or none of the kind. It is not touched before it is used. */
    static void *huge_block(size_t size) {
        uint8_t *all = (uint8_t *)mmap(NULL, size + OTLP_HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        size_t before;
        if (all == (uint8_t *)MAP_FAILED) return NULL;
        before = (size_t)(-(intptr_t)all & (intptr_t)(OTLP_HUGE_PAGE_BYTES - 1));
        if (before) munmap(all, before);
        munmap(all + before + size, OTLP_HUGE_PAGE_BYTES - before);
        madvise(all + before, size, MADV_HUGEPAGE); /* refused: then its pages are small */
        return all + before;
    }
    static void huge_block_end(void *block, size_t size) { munmap(block, size); }
    #else
    static void *huge_block(size_t size) { (void)size; return NULL; }
    static void huge_block_end(void *block, size_t size) { (void)block; (void)size; }
    #endif
    """
    void* huge_block(size_t size)
    void huge_block_end(void* block, size_t size)

READS_SOCKETS = bool(OTLP_READS_SOCKETS)
"""Whether ``Connection.read`` is to be had."""

cdef int64_t MAX_WINDOW = 0x7FFFFFFF
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
cdef const uint8_t* PREFACE_POINTER = <const uint8_t*>PyBytes_AS_STRING(PREFACE)
_STOPPING = b"stopping"  # the payload of the ping that follows the first GOAWAY


# -- HPACK -----------------------------------------------------------------------------------------------
_STATIC = (
    (":authority", b""), (":method", b"GET"), (":method", b"POST"), (":path", b"/"), (":path", b"/index.html"),
    (":scheme", b"http"), (":scheme", b"https"), (":status", b"200"), (":status", b"204"), (":status", b"206"),
    (":status", b"304"), (":status", b"400"), (":status", b"404"), (":status", b"500"), ("accept-charset", b""),
    ("accept-encoding", b"gzip, deflate"), ("accept-language", b""), ("accept-ranges", b""), ("accept", b""),
    ("access-control-allow-origin", b""), ("age", b""), ("allow", b""), ("authorization", b""),
    ("cache-control", b""), ("content-disposition", b""), ("content-encoding", b""), ("content-language", b""),
    ("content-length", b""), ("content-location", b""), ("content-range", b""), ("content-type", b""),
    ("cookie", b""), ("date", b""), ("etag", b""), ("expect", b""), ("expires", b""), ("from", b""), ("host", b""),
    ("if-match", b""), ("if-modified-since", b""), ("if-none-match", b""), ("if-range", b""),
    ("if-unmodified-since", b""), ("last-modified", b""), ("link", b""), ("location", b""), ("max-forwards", b""),
    ("proxy-authenticate", b""), ("proxy-authorization", b""), ("range", b""), ("referer", b""), ("refresh", b""),
    ("retry-after", b""), ("server", b""), ("set-cookie", b""), ("strict-transport-security", b""),
    ("transfer-encoding", b""), ("user-agent", b""), ("vary", b""), ("via", b""), ("www-authenticate", b""),
)  # RFC 7541, appendix A
cdef Py_ssize_t STATIC_ENTRIES = len(_STATIC)

# RFC 7541, appendix B. The code is canonical, so that the lengths of the 257 codes say it all.
HUFFMAN_LENGTHS = bytes(
    [13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15,
    6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22,
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23,
    23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22,
    22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26,
    27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27,
    26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30]
)
cdef uint32_t _first_code[32]
cdef uint32_t _first_index[32]
cdef uint32_t _codes[32]
cdef uint16_t _symbols[257]


cdef void _build_huffman():
    cdef uint32_t code = 0, index = 0
    cdef int length, symbol
    for length in range(32):
        _first_code[length] = code
        _first_index[length] = index
        for symbol in range(257):
            if HUFFMAN_LENGTHS[symbol] == length and length:
                _symbols[index] = symbol
                index += 1
                code += 1
        _codes[length] = index - _first_index[length]
        code <<= 1


_build_huffman()


class HpackError(Exception):
    """A header block that cannot be decoded: the connection is over, as its table may be out of step."""


cdef bytes _unhuffman(const uint8_t* p, Py_ssize_t n):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n * 8 // 5 + 1)  # the shortest code has five bits
    cdef char* to = PyBytes_AS_STRING(out)
    cdef Py_ssize_t at = 0, written = 0
    cdef uint64_t bits = 0
    cdef int held = 0, length
    cdef uint32_t code
    cdef uint16_t symbol
    cdef bint found
    while True:
        while held <= 56 and at < n:
            bits |= <uint64_t>p[at] << (56 - held)
            held += 8
            at += 1
        found = False
        for length in range(5, min(held, 30) + 1):
            code = <uint32_t>(bits >> (64 - length))
            if code - _first_code[length] < _codes[length]:
                symbol = _symbols[_first_index[length] + code - _first_code[length]]
                if symbol == 256:
                    raise HpackError("the end of a string within it")
                to[written] = <char>symbol
                written += 1
                bits <<= length
                held -= length
                found = True
                break
        if not found:
            break
    if held > 7 or (held and bits >> (64 - held) != (<uint64_t>1 << held) - 1):
        raise HpackError("a string that does not end on a symbol")
    return out[:written]


cdef class _Table:
    """The dynamic table: newest last."""

    cdef list entries
    cdef Py_ssize_t size, limit

    def __cinit__(self):
        self.entries = []
        self.size = 0
        self.limit = TABLE_BYTES

    cdef tuple get(self, Py_ssize_t index):
        cdef Py_ssize_t at
        if 0 < index <= STATIC_ENTRIES:
            return _STATIC[index - 1]
        at = len(self.entries) - (index - STATIC_ENTRIES)
        if index <= 0 or at < 0:
            raise HpackError(f"no header with number {index}")
        return self.entries[at]

    cdef void shrink(self, Py_ssize_t limit):
        cdef Py_ssize_t gone = 0
        while self.size > limit:
            name, value = self.entries[gone]
            self.size -= len(name) + len(value) + ENTRY_OVERHEAD
            gone += 1
        if gone:
            del self.entries[:gone]

    cdef void add(self, tuple entry, Py_ssize_t size):
        if size > self.limit:  # empties the table, and is no error
            self.entries.clear()
            self.size = 0
            return
        self.shrink(self.limit - size)
        self.entries.append(entry)
        self.size += size


cdef class HeaderDecoder:
    """Header blocks of one connection, in their order."""

    cdef _Table table
    cdef dict cached  # blocks that neither used nor changed anything but the table as it is
    cdef readonly Py_ssize_t max_list_bytes

    def __cinit__(self, Py_ssize_t max_list_bytes):
        self.table = _Table()
        self.cached = {}
        self.max_list_bytes = max_list_bytes

    def decode(self, bytes block):
        """A dict of the fields, None if they are over ``max_list_bytes`` or malformed. Raises ``HpackError``."""
        headers = self.cached.get(block)
        if headers is not None:
            return headers
        return self._decode(block)

    cdef object _decode(self, bytes block):
        cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(block)
        cdef const uint8_t* p = start
        cdef const uint8_t* end = p + len(block)
        cdef dict headers = {}
        cdef bint only_indexed = True, any_field = False, fine = True, regular = False
        cdef Py_ssize_t total = 0, index, size
        cdef uint8_t first
        cdef tuple entry
        while p < end:
            first = p[0]
            if first & 0xE0 == 0x20:
                if any_field:
                    raise HpackError("a new table size within the fields")
                index = _integer(&p, end, 5)
                if index > TABLE_BYTES:
                    raise HpackError(f"a header table of {index} bytes, {TABLE_BYTES} at most")
                self.table.limit = index
                self.table.shrink(index)
                self.cached.clear()
                only_indexed = False
                continue
            any_field = True
            if first & 0x80:
                entry = self.table.get(_integer(&p, end, 7))
                size = len(entry[0]) + len(<bytes>entry[1]) + ENTRY_OVERHEAD
            else:
                only_indexed = False
                index = _integer(&p, end, 6 if first & 0x40 else 4)
                name = self.table.get(index)[0] if index else _name(_string(&p, end))
                entry = (name, _string(&p, end))
                size = len(name) + len(<bytes>entry[1]) + ENTRY_OVERHEAD
                if first & 0x40:
                    self.table.add(entry, size)
                    self.cached.clear()
            total += size
            if total > self.max_list_bytes or not fine:
                fine = False  # decoded to the end all the same, for the table
                continue
            fine = _take(headers, entry, &regular)
        if not fine or ":method" not in headers or ":path" not in headers or ":scheme" not in headers:
            return None
        if only_indexed:
            if len(self.cached) >= CACHED_BLOCKS:
                self.cached.clear()
            self.cached[block] = headers
        return headers


_REQUEST_FIELDS = frozenset({":method", ":scheme", ":authority", ":path"})
_FORBIDDEN = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})


cdef bint _take(dict headers, tuple entry, bint* regular) except -1:
    """RFC 9113, 8.2 and 8.3; whether the field is one that may stand here."""
    cdef str name = entry[0]
    cdef bytes value = entry[1]
    if not name or b"\0" in value or b"\r" in value or b"\n" in value:
        return False
    if name[0] == ":":
        if regular[0] or name not in _REQUEST_FIELDS or name in headers:
            return False
    else:
        regular[0] = True
        if name in _FORBIDDEN or (name == "te" and value != b"trailers"):
            return False
        if name in headers:
            value = headers[name] + b", " + value
    headers[name] = value
    return True


cdef str _name(bytes raw):
    """A field name; the empty one if it is none (RFC 9113, 8.2.1)."""
    cdef Py_ssize_t at
    cdef uint8_t c
    for at in range(len(raw)):
        c = <uint8_t>raw[at]
        if c <= 0x20 or c >= 0x7F or 0x41 <= c <= 0x5A or (c == 0x3A and at):
            return ""
    return raw.decode("ascii")


cdef Py_ssize_t _integer(const uint8_t** at, const uint8_t* end, int bits) except -1:
    cdef uint32_t mask = (1 << bits) - 1
    cdef uint64_t value = at[0][0] & mask
    cdef int shift = 0
    at[0] += 1
    if value < mask:
        return <Py_ssize_t>value
    while at[0] < end:
        value += <uint64_t>(at[0][0] & 0x7F) << shift
        shift += 7
        at[0] += 1
        if not (at[0] - 1)[0] & 0x80:
            return <Py_ssize_t>value
        if shift > 21:
            raise HpackError("a number that is too long")
    raise HpackError("a number that is cut off")


cdef bytes _string(const uint8_t** at, const uint8_t* end):
    cdef Py_ssize_t length
    cdef const uint8_t* start
    cdef bint coded
    if at[0] >= end:
        raise HpackError("a string that is cut off")
    coded = at[0][0] & 0x80
    length = _integer(at, end, 7)
    if length > end - at[0]:
        raise HpackError("a string that is cut off")
    start = at[0]
    at[0] += length
    if coded:
        return _unhuffman(start, length)
    return PyBytes_FromStringAndSize(<const char*>start, length)


def header_block(fields):
    """A block of ``(name, value)`` pairs of bytes, none of them for the peer's table."""
    cdef bytearray block = bytearray()
    for name, value in fields:
        if name == b":status" and value == b"200":
            block.append(0x88)
            continue
        block.append(0)
        for text in (name, value):
            _put_integer(block, len(text))
            block += text
    return bytes(block)


cdef void _put_integer(bytearray block, Py_ssize_t value):
    if value < 127:
        block.append(value)
        return
    block.append(127)
    value -= 127
    while value >= 128:
        block.append(value & 0x7F | 0x80)
        value >>= 7
    block.append(value)


GRPC_HEADERS = header_block(
    [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-accept-encoding", b"identity, gzip, deflate, zstd"),
    ]
)
GRPC_OK = header_block([(b"grpc-status", b"0")])


# -- frames ----------------------------------------------------------------------------------------------
cdef bytes _frame(int kind, int flags, uint32_t stream_id, bytes payload):
    cdef Py_ssize_t n = len(payload)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, HEAD_BYTES + n)
    cdef uint8_t* p = <uint8_t*>PyBytes_AS_STRING(frame)
    p[0] = n >> 16
    p[1] = (n >> 8) & 0xFF
    p[2] = n & 0xFF
    p[3] = kind
    p[4] = flags
    _put32(p + 5, stream_id)
    memcpy(p + HEAD_BYTES, PyBytes_AS_STRING(payload), n)
    return frame


cdef bytes _data_head(Py_ssize_t n, int flags, uint32_t stream_id):
    """The head of a DATA frame whose payload goes out by itself."""
    cdef bytes head = PyBytes_FromStringAndSize(NULL, HEAD_BYTES)
    cdef uint8_t* p = <uint8_t*>PyBytes_AS_STRING(head)
    p[0] = n >> 16
    p[1] = (n >> 8) & 0xFF
    p[2] = n & 0xFF
    p[3] = F_DATA
    p[4] = flags
    _put32(p + 5, stream_id)
    return head


cdef inline void _put32(uint8_t* p, uint32_t value) noexcept:
    p[0] = value >> 24
    p[1] = (value >> 16) & 0xFF
    p[2] = (value >> 8) & 0xFF
    p[3] = value & 0xFF


cdef inline uint32_t _get32(const uint8_t* p) noexcept:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef bytes _word(uint32_t value):
    return int(value).to_bytes(4, "big")


# A whole answer to a call that has nothing to report: headers, an empty message, trailers; stream 0.
_EMPTY_MESSAGE = bytes(5)
_OK_HEAD = _frame(F_HEADERS, END_HEADERS, 0, GRPC_HEADERS)
_OK_DATA = _frame(F_DATA, 0, 0, _EMPTY_MESSAGE)
_OK_END = _frame(F_HEADERS, END_HEADERS | END_STREAM, 0, GRPC_OK)
cdef bytes _OK = _OK_HEAD + _OK_DATA + _OK_END
cdef Py_ssize_t OK_BYTES = len(_OK), OK_DATA_AT = len(_OK_HEAD), OK_END_AT = len(_OK_HEAD) + len(_OK_DATA)


# -- memory of messages ----------------------------------------------------------------------------------
cdef struct _Spare:
    void* data
    size_t size

cdef _Spare _spares[HUGE_SPARES]
cdef size_t _spare_count = 0, _spare_bytes = 0, _huge_bytes = 0
cdef bint _huge_wanted = False  # since somebody asked whether any was


cdef class _Block:
    """Memory that messages lie in one after the other. It is used again when none of them is left."""

    cdef uint8_t* data
    cdef size_t size, used

    def __dealloc__(self):
        global _spare_count, _spare_bytes
        if self.data == NULL:
            return
        if _spare_count < HUGE_SPARES and _spare_bytes + self.size <= HUGE_KEPT_BYTES:
            _spares[_spare_count] = _Spare(self.data, self.size)
            _spare_count += 1
            _spare_bytes += self.size
        else:
            _end_block(self.data, self.size)


cdef _Block _current = None  # has room left


cdef class _Region:
    """The memory of one message: a buffer that nobody writes to any more once it is handed over."""

    cdef _Block block
    cdef uint8_t* data
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, 1, flags)


cdef void _end_block(void* data, size_t size) noexcept:
    global _huge_bytes
    huge_block_end(data, size)
    _huge_bytes -= size


cdef _Block _new_block(size_t least):
    """None: there is none to be had."""
    global _spare_count, _spare_bytes, _huge_bytes
    cdef size_t size = (least + HUGE_BLOCK_BYTES - 1) // HUGE_BLOCK_BYTES * HUGE_BLOCK_BYTES
    cdef size_t at = _spare_count
    cdef _Block block = _Block.__new__(_Block)
    while at > 0:  # the last one that was used is likely to be in the caches still
        at -= 1
        if _spares[at].size == size:
            block.data = <uint8_t*>_spares[at].data
            block.size = size
            _spare_count -= 1
            _spares[at] = _spares[_spare_count]
            _spare_bytes -= size
            return block
    if _huge_bytes + size > HUGE_MOST_BYTES:
        return None
    block.data = <uint8_t*>huge_block(size)
    if block.data == NULL:
        return None
    block.size = size
    _huge_bytes += size
    return block


cdef _Region _new_region(size_t size, size_t page_at):
    """Memory whose byte ``page_at`` begins a page. None: there is none to be had."""
    global _current, _huge_wanted
    cdef size_t start = 0
    cdef _Region region
    _huge_wanted = True
    if _current is not None:
        start = _current.used + (PAGE_BYTES - (_current.used + page_at) % PAGE_BYTES) % PAGE_BYTES
    if _current is None or start + size > _current.size:
        _current = None  # so that it can be used again
        _current = _new_block(size + PAGE_BYTES)
        if _current is None:
            return None
        start = (PAGE_BYTES - page_at % PAGE_BYTES) % PAGE_BYTES
    region = _Region.__new__(_Region)
    region.block = _current
    region.data = _current.data + start
    region.size = size
    _current.used = start + size
    return region


def free_unused_memory(bint though_wanted=False):
    """Give back what is kept for further large messages, if none came since the last call or nobody will send any."""
    global _current, _huge_wanted, _spare_count, _spare_bytes
    if though_wanted or not _huge_wanted:
        _current = None
        while _spare_count > 0:
            _spare_count -= 1
            _spare_bytes -= _spares[_spare_count].size
            _end_block(_spares[_spare_count].data, _spares[_spare_count].size)
    _huge_wanted = False


def huge_memory() -> tuple[int, int]:
    """Bytes of all memory of huge pages, and what of it is kept for further messages."""
    return _huge_bytes, _spare_bytes


cdef class Stream:
    """A call. ``message`` and ``compressed`` are set when ``owner.complete`` hears of it."""

    cdef readonly uint32_t stream_id
    cdef readonly dict headers
    cdef readonly bytes message
    cdef readonly bint compressed
    cdef readonly bint streaming  # in: any number of messages
    cdef readonly bint begun  # the headers of the answer are out
    cdef readonly bint ended  # nothing more goes out: answered, refused or reset
    cdef public bint tell_drained  # the owner hears ``drained`` once nothing waits for the peer's windows
    cdef public object context  # the owner's
    cdef public Py_ssize_t page_at  # this byte of a large message shall begin a page of memory; -1: none need
    cdef PyObject* body  # bytes: ``start`` that are of no use, then room for ``capacity``, of which ``filled`` have come
    cdef _Region region  # or this is where it lies
    cdef Py_ssize_t length, start, capacity, filled
    cdef uint8_t prefix[5]
    cdef int prefix_filled
    cdef bint remote_ended, deaf
    cdef int64_t receive_window, send_window
    cdef int64_t held  # bytes of messages that were handed over and are not consumed
    cdef list pieces  # data that the peer's windows hold back
    cdef Py_ssize_t piece, sent  # the first one that waits, and what of it is out
    cdef readonly Py_ssize_t waiting_bytes
    cdef bytes trailers  # what follows it; None while the stream goes on
    cdef bint ending

    def __cinit__(self):
        self.page_at = -1

    def __dealloc__(self):
        Py_XDECREF(self.body)

    @property
    def received_bytes(self):
        """Bytes of a message that has not come whole, its prefix included."""
        return 0 if self.deaf else self.filled + self.prefix_filled


cdef class Connection:
    """The server's side. ``owner`` hears ``begin(stream)``, then ``complete``, ``broken(stream, reason, too_large)`` or
    ``reset``; answers go in by ``respond``. ``receive`` and whatever answers add to the output: ``take`` it then.

    Of a call with ``take_many`` it hears ``expect(stream, nbytes)`` before a large message is read,
    ``message(stream, message, compressed)`` for each, and ``finished`` in place of ``complete``.
    """

    cdef object owner
    cdef HeaderDecoder decoder
    cdef dict streams
    cdef readonly bint closed  # the last bytes are in the output
    cdef readonly str error  # why, if the peer made it so
    cdef readonly uint32_t last_stream_id
    cdef readonly Py_ssize_t incomplete_bytes  # of messages that have not come whole
    cdef readonly Py_ssize_t requests
    cdef readonly bint large_messages  # the last one of a call of many was large
    cdef readonly bint refusing  # the last GOAWAY is out
    cdef public Py_ssize_t nuisance
    cdef Py_ssize_t max_message_bytes, max_streams, max_nuisance, max_frame_bytes, max_block_bytes
    cdef int64_t stream_window, connection_window
    cdef int64_t receive_window, send_window, peer_stream_window
    cdef int64_t held  # by all calls
    cdef Py_ssize_t peer_frame_bytes
    cdef list blocked
    cdef bytearray out
    cdef readonly list large  # the output before ``out``, in pieces, if there are large ones
    cdef int state
    cdef bint settled  # the peer's SETTINGS came
    cdef uint8_t head[24]
    cdef int head_filled
    cdef Py_ssize_t frame_bytes
    cdef int frame_type, frame_flags
    cdef uint32_t frame_stream
    cdef Py_ssize_t data_left, pad_left
    cdef bint pad_unread
    cdef Stream data_stream
    cdef bytearray payload
    cdef bytearray block  # of header fields, until END_HEADERS
    cdef uint32_t block_stream
    cdef bint block_ends_stream

    def __init__(
        self,
        owner,
        *,
        Py_ssize_t max_message_bytes,
        Py_ssize_t max_streams,
        Py_ssize_t max_header_bytes,
        Py_ssize_t max_nuisance,
        Py_ssize_t stream_window_bytes,
        Py_ssize_t connection_window_bytes,
        Py_ssize_t max_frame_bytes,
    ):
        self.owner = owner
        self.decoder = HeaderDecoder(max_header_bytes)
        self.streams = {}
        self.max_message_bytes = max_message_bytes
        self.max_streams = max_streams
        self.max_nuisance = max_nuisance
        self.max_frame_bytes = max_frame_bytes
        self.max_block_bytes = max_header_bytes
        self.stream_window = stream_window_bytes
        self.connection_window = self.receive_window = connection_window_bytes
        self.send_window = self.peer_stream_window = 65535
        self.peer_frame_bytes = 16384
        self.blocked = []
        self.large = []
        self.payload = bytearray()
        self.block = bytearray()
        self.state = IN_PREFACE
        settings = b"".join(
            number.to_bytes(2, "big") + value.to_bytes(4, "big")
            for number, value in (
                (3, max_streams),
                (4, stream_window_bytes),
                (5, max_frame_bytes),
                (6, max_header_bytes),
            )
        )
        self.out = bytearray(_frame(F_SETTINGS, 0, 0, settings))
        self.out += _frame(F_WINDOW_UPDATE, 0, 0, _word(connection_window_bytes - 65535))

    # -- what the owner does -----------------------------------------------------------------------
    @property
    def open_streams(self):
        """How many calls are under way."""
        return len(self.streams)

    def calls(self):
        """The calls under way."""
        return list(self.streams.values())

    def take(self):
        """The bytes to write now."""
        if self.large:
            return b"".join(self.take_pieces())
        if not self.out:
            return b""
        data = bytes(self.out)
        self.out.clear()
        return data

    def take_pieces(self):
        """The same as a list of buffers, in which large pieces are not copied."""
        cdef list pieces = self.large
        self.large = []
        if self.out:
            pieces.append(bytes(self.out))
            self.out.clear()
        return pieces

    def take_many(self, Stream stream):
        """Take any number of messages in this call, each as it comes."""
        stream.streaming = True

    def consumed(self, Stream stream, Py_ssize_t nbytes):
        """So many bytes of messages that were handed over are taken care of: the client may send as many again."""
        nbytes = min(nbytes, stream.held)
        stream.held -= nbytes
        self.held -= nbytes
        if not self.closed:
            self._renew(stream)

    def ignore(self, Stream stream):
        """Listen to this call no longer: it will be answered without the rest."""
        self._forget_body(stream)
        self.consumed(stream, stream.held)

    def offer(self):
        """Memory that the next bytes may be read into: ``accept_offered`` them then. None: offer them to ``receive``."""
        cdef Py_ssize_t n = self._room_in_message()
        return PyMemoryView_FromMemory(_end_of(self.data_stream), n, PyBUF_WRITE) if n else None

    cdef Py_ssize_t _room_in_message(self) except -1:
        """How much of the frame that is being read goes into a message, if it is worth being read into its memory."""
        cdef Stream stream = self.data_stream
        cdef Py_ssize_t n
        if self.state != IN_DATA or self.pad_unread or stream is None or stream.deaf or stream.prefix_filled < 5:
            return 0
        n = min(self.data_left, stream.length - stream.filled)
        if n < DIRECT_BYTES:
            return 0
        self._grow(stream, n)
        return n

    def accept_offered(self, Py_ssize_t n):
        """Take in what was read into the last offer."""
        self._accept(n)

    cdef int _accept(self, Py_ssize_t n) except -1:
        cdef Stream stream = self.data_stream
        assert stream is not None and not stream.deaf, "nothing happens between an offer and its answer"
        stream.filled += n
        self.incomplete_bytes += n
        self.data_left -= n
        if stream.streaming and stream.filled == stream.length:
            self._hand_over(stream)
        if not self.data_left and not self.pad_left and not self.closed:
            self.state = IN_HEAD
            self._end_data()
        return 0

    def read(self, int descriptor, bytearray buffer, Py_ssize_t most):
        """Take in what has come on a socket that does not block, until that is all or at least ``most`` bytes are read;
        false if the peer has sent its last. Raises ``OSError``.

        What belongs to a large message goes into its memory, across the end of the frame: what follows a frame is
        nearly always the next one of the same message. What lies beside it goes into ``buffer``.
        """
        cdef iovec parts[4]
        cdef uint8_t head[HEAD_BYTES]
        cdef char* beside = PyByteArray_AS_STRING(buffer)
        cdef Py_ssize_t room = len(buffer), inside, beyond, got, total = 0
        cdef int count
        cdef Stream stream
        while total < most and not self.closed:
            count = 0
            beyond = 0
            inside = self._room_in_message()
            stream = self.data_stream
            if inside:
                parts[0].iov_base = _end_of(stream)
                parts[0].iov_len = inside
                count = 1
                if stream.streaming and stream.capacity == stream.length and inside == self.data_left and not self.pad_left:
                    beyond = stream.length - stream.filled - inside
                if beyond:
                    parts[1].iov_base = head
                    parts[1].iov_len = HEAD_BYTES
                    parts[2].iov_base = _end_of(stream) + inside
                    parts[2].iov_len = beyond
                    count = 3
            parts[count].iov_base = beside
            parts[count].iov_len = min(room, BESIDE_BYTES) if inside or self.large_messages else room
            got = _read(descriptor, parts, count + 1)
            if got <= 0:
                return got < 0
            total += got
            if self._take(stream, head, beside, inside, beyond, got) + <Py_ssize_t>parts[count].iov_len > got:
                break
        return True

    cdef Py_ssize_t _take(
        self, Stream stream, const uint8_t* head, const char* beside, Py_ssize_t inside, Py_ssize_t beyond, Py_ssize_t got
    ) except -1:
        """What ``read`` has got, and how much of it there could have been before what lies beside."""
        cdef Py_ssize_t before = inside + (beyond + HEAD_BYTES if beyond else 0)
        cdef Py_ssize_t n
        cdef object body
        cdef const uint8_t* further
        if got <= inside:
            self._accept(got)
            return before
        if beyond:  # the end of the message has not come yet, so that its memory is the stream's
            body = stream.region  # whatever the next frame is, it stays
            if body is None:
                body = <object>stream.body
            further = <const uint8_t*>_end_of(stream) + inside
            self._accept(inside)
            n = min(got - inside, HEAD_BYTES)
            self._receive(head, n)
            n = min(got - inside - n, beyond)
            if n:
                self._take_further(stream, further, n)
        elif inside:
            self._accept(inside)
        if got > before:
            self._receive(<const uint8_t*>beside, got - before)
        return before

    cdef int _take_further(self, Stream stream, const uint8_t* further, Py_ssize_t n) except -1:
        """Bytes behind the head of a frame, which lie where they belong if the frame is the message's next one."""
        cdef Py_ssize_t fitting = 0
        cdef bytes others
        if self.state == IN_DATA and self.data_stream is stream and not self.pad_unread and not stream.deaf:
            fitting = min(n, self.data_left)
            self._accept(fitting)
        if fitting < n and not self.closed:
            others = PyBytes_FromStringAndSize(<const char*>further + fitting, n - fitting)
            self._receive(<const uint8_t*>PyBytes_AS_STRING(others), n - fitting)
        return 0

    @property
    def expects_bytes(self):
        """How much of the frame that is being read is still to come: so much need not be looked at before it is there."""
        return self.data_left + self.pad_left if self.state == IN_DATA else 0

    def receive(self, bytearray buffer, Py_ssize_t nbytes):
        """Take the first ``nbytes`` of ``buffer`` in, which must not change meanwhile."""
        self._receive(<const uint8_t*>PyByteArray_AS_STRING(buffer), nbytes)

    cdef int _receive(self, const uint8_t* p, Py_ssize_t nbytes) except -1:
        cdef const uint8_t* end = p + nbytes
        cdef Py_ssize_t n
        while p < end and not self.closed:
            if self.state == IN_DATA:
                p = self._data(p, end)
            elif self.state == IN_HEAD:
                n = min(HEAD_BYTES - self.head_filled, end - p)
                memcpy(self.head + self.head_filled, p, n)
                self.head_filled += n
                p += n
                if self.head_filled == HEAD_BYTES:
                    self.head_filled = 0
                    self._begin_frame()
            elif self.state == IN_PAYLOAD:
                n = self.frame_bytes - len(self.payload)
                if not self.payload and end - p >= n:
                    self.state = IN_HEAD
                    self._control(p, n)
                    p += n
                else:
                    n = min(n, end - p)
                    self.payload += PyBytes_FromStringAndSize(<const char*>p, n)
                    p += n
                    if len(self.payload) == self.frame_bytes:
                        whole = bytes(self.payload)
                        self.payload.clear()
                        self.state = IN_HEAD
                        self._control(<const uint8_t*>PyBytes_AS_STRING(whole), len(whole))
            else:
                n = min(PREFACE_BYTES - self.head_filled, end - p)
                memcpy(self.head + self.head_filled, p, n)
                self.head_filled += n
                p += n
                if memcmp(self.head, PREFACE_POINTER, self.head_filled):
                    self._fail(PROTOCOL_ERROR, "the preface of HTTP/2 is missing")
                elif self.head_filled == PREFACE_BYTES:
                    self.head_filled = 0
                    self.state = IN_HEAD
        return 0

    def ok(self, Stream stream):
        """Answer a call with an empty message."""
        cdef Py_ssize_t at
        cdef uint8_t* p
        if stream.ended:
            return
        if self.send_window < 5 or stream.send_window < 5 or self.blocked:
            self.respond(stream, GRPC_HEADERS, _EMPTY_MESSAGE, GRPC_OK)
            return
        self.send_window -= 5
        at = len(self.out)
        self.out += _OK
        p = <uint8_t*>PyByteArray_AS_STRING(self.out) + at + 5
        _put32(p, stream.stream_id)
        _put32(p + OK_DATA_AT, stream.stream_id)
        _put32(p + OK_END_AT, stream.stream_id)
        self._end(stream)

    def respond(self, Stream stream, bytes block, bytes body=None, bytes trailers=None):
        """Answer a call with headers, a body unless that is None, and trailers unless they are None."""
        if stream.ended:
            return
        if body is None and trailers is None:
            self.out += _frame(F_HEADERS, END_HEADERS | END_STREAM, stream.stream_id, block)
            self._end(stream)
            return
        self.begin(stream, block)
        self.push(stream, body or b"", trailers, True)

    def begin(self, Stream stream, bytes block):
        """Begin an answer that ``push`` goes on with."""
        if not stream.ended:
            stream.begun = True
            self.out += _frame(F_HEADERS, END_HEADERS, stream.stream_id, block)

    def push(self, Stream stream, bytes body, bytes trailers=None, bint ending=False):
        """More of an answer; its end with ``ending``."""
        if stream.ended or stream.ending:
            return
        self._wait(stream, body)
        stream.trailers = trailers
        stream.ending = ending
        if ending:
            self._forget_body(stream)  # what still comes is not listened to, however long the answer takes
        self._unblock()

    def send(self, Stream stream, *parts):
        """One more message of an answer, the first one after its headers. Large parts are kept, not copied."""
        cdef Py_ssize_t length = 0
        if stream.ended or stream.ending:
            return
        if not stream.begun:
            self.begin(stream, GRPC_HEADERS)
        for part in parts:
            length += len(part)
        self._wait(stream, b"\0" + _word(length) + parts[0] if len(parts[0]) < WHOLE_BYTES else b"\0" + _word(length))
        for part in parts[len(parts[0]) < WHOLE_BYTES :]:
            self._wait(stream, part)
        self._unblock()

    def cut(self, Stream stream, bytes trailers):
        """End an answer now: what the client did not take of it is dropped."""
        if not stream.ended:
            self.out += _frame(F_HEADERS, END_HEADERS | END_STREAM, stream.stream_id, trailers)
            self._end(stream)

    def abort(self, Stream stream):
        """Give a call up without an answer; the client may send it again (REFUSED_STREAM)."""
        if not stream.ended:
            self._reset(stream, REFUSED_STREAM)

    def ping(self):
        """Ask whether the peer is there."""
        self.out += _frame(F_PING, 0, 0, b"\0otlp-ka")

    def stop(self):
        """Say that no more calls are wanted; those on their way are still taken until the peer has heard it."""
        if not self.closed and not self.refusing:
            self.out += _frame(F_GOAWAY, 0, 0, _word(0x7FFFFFFF) + _word(NO_ERROR))
            self.out += _frame(F_PING, 0, 0, _STOPPING)

    def refuse_further(self):
        """Say which call is the last one that is answered."""
        if not self.closed and not self.refusing:
            self.refusing = True
            self.out += _frame(F_GOAWAY, 0, 0, _word(self.last_stream_id) + _word(NO_ERROR))

    # -- frames in ---------------------------------------------------------------------------------
    cdef int _begin_frame(self) except -1:
        cdef Py_ssize_t n = <Py_ssize_t>self.head[0] << 16 | <Py_ssize_t>self.head[1] << 8 | self.head[2]
        self.frame_bytes = n
        self.frame_type = self.head[3]
        self.frame_flags = self.head[4]
        self.frame_stream = _get32(self.head + 5) & 0x7FFFFFFF
        if self.block_stream and (self.frame_type != F_CONTINUATION or self.frame_stream != self.block_stream):
            return self._fail(PROTOCOL_ERROR, "a header block that is not continued")
        if not self.settled and (self.frame_type != F_SETTINGS or self.frame_flags & ACK):
            return self._fail(PROTOCOL_ERROR, "a connection that does not begin with SETTINGS")
        if n > self.max_frame_bytes or (self.frame_type != F_DATA and n > MAX_CONTROL_FRAME):
            return self._fail(FRAME_SIZE_ERROR, f"a frame of {n} bytes")
        if self.frame_type != F_DATA:
            if n:
                self.state = IN_PAYLOAD
            else:
                self._control(self.head, 0)
            return 0
        if not self.frame_stream & 1 or self.frame_stream > self.last_stream_id:
            return self._fail(PROTOCOL_ERROR, "data on a stream that was not opened")
        self.receive_window -= n
        if self.receive_window < 0:
            return self._fail(FLOW_CONTROL_ERROR, "more data than the connection's window")
        self.data_stream = self.streams.get(self.frame_stream)
        if self.data_stream is not None:
            if self.data_stream.remote_ended:
                return self._fail(STREAM_CLOSED, "data after the end of its stream")
            self.data_stream.receive_window -= n
            if self.data_stream.receive_window < 0:
                return self._fail(FLOW_CONTROL_ERROR, "more data than the stream's window")
        if n == 0 and not self.frame_flags & END_STREAM:
            return self._nuisance()
        self.nuisance = max(0, self.nuisance - 1)
        self.pad_left = 0
        self.pad_unread = self.frame_flags & PADDED
        self.data_left = n
        if n == 0:
            if self.pad_unread:
                return self._fail(FRAME_SIZE_ERROR, "padding without its length")
            return self._end_data()
        self.state = IN_DATA
        return 0

    cdef const uint8_t* _data(self, const uint8_t* p, const uint8_t* end) except NULL:
        cdef Py_ssize_t n
        if self.pad_unread:
            self.pad_unread = False
            self.pad_left = p[0]
            p += 1
            self.data_left -= 1 + self.pad_left
            if self.data_left < 0:
                self._fail(PROTOCOL_ERROR, "more padding than data")
                return p
        n = min(self.data_left, end - p)
        if n:
            if self.data_stream is not None and not self.data_stream.deaf:
                self._feed(self.data_stream, p, n)
            self.data_left -= n
            p += n
        n = min(self.pad_left, end - p)
        if not self.data_left and n:
            self.pad_left -= n
            p += n
        if not self.data_left and not self.pad_left and not self.closed:
            self.state = IN_HEAD
            self._end_data()
        return p

    cdef int _end_data(self) except -1:
        cdef Stream stream = self.data_stream
        self.data_stream = None
        if stream is not None and not stream.ended and self.frame_flags & END_STREAM:
            self._remote_end(stream)
        return self._renew(stream)

    cdef int _renew(self, Stream stream) except -1:
        """Let the peer send again what is neither on its way nor held, once that is half of a window."""
        cdef int64_t given = self.connection_window - self.held - self.receive_window
        if given > self.connection_window // 2:
            self.out += _frame(F_WINDOW_UPDATE, 0, 0, _word(<uint32_t>given))
            self.receive_window += given
        if stream is None or stream.ended or stream.remote_ended:
            return 0
        given = self.stream_window - stream.held - stream.receive_window
        if given > self.stream_window // 2:
            self.out += _frame(F_WINDOW_UPDATE, 0, stream.stream_id, _word(<uint32_t>given))
            stream.receive_window += given
        return 0

    cdef int _feed(self, Stream stream, const uint8_t* p, Py_ssize_t n) except -1:
        """Bytes of a call: five that say what follows, then its message."""
        cdef Py_ssize_t some
        while n:
            if stream.prefix_filled < 5:
                some = min(5 - stream.prefix_filled, n)
                memcpy(stream.prefix + stream.prefix_filled, p, some)
                stream.prefix_filled += some
                p += some
                n -= some
                if stream.prefix_filled < 5:
                    return 0
                stream.length = _get32(stream.prefix + 1)
                stream.compressed = stream.prefix[0] & 1
                if stream.prefix[0] > 1:
                    return self._broken(stream, "the call's data is not a gRPC message", False)
                if stream.length > self.max_message_bytes:
                    reason = f"a message of {stream.length} bytes is over the limit of {self.max_message_bytes}"
                    return self._broken(stream, reason, True)
                if stream.streaming and stream.length > FIRST_CAPACITY:
                    self.owner.expect(stream, stream.length)
                    if stream.deaf:
                        return 0
                _new_body(stream)
            elif stream.filled < stream.length:
                some = min(stream.length - stream.filled, n)
                self._grow(stream, some)
                memcpy(_end_of(stream), p, some)
                stream.filled += some
                self.incomplete_bytes += some
                p += some
                n -= some
            else:
                return self._broken(stream, "the call has more than one message", False)
            if stream.streaming and stream.filled == stream.length:
                self._hand_over(stream)
                if stream.deaf:
                    return 0
        return 0

    cdef int _grow(self, Stream stream, Py_ssize_t more) except -1:
        """Memory for so many more bytes of a message."""
        if stream.filled + more > stream.capacity:
            stream.capacity = min(stream.length, max(4 * stream.capacity, stream.filled + more))
            _PyBytes_Resize(&stream.body, stream.start + stream.capacity)
        return 0

    cdef int _hand_over(self, Stream stream) except -1:
        """A message of a call that streams is whole."""
        cdef Py_ssize_t start = stream.start
        cdef object message = self._whole(stream)
        if type(message) is _Region:
            message = memoryview(message)
        elif start:
            message = memoryview(message)[start:start + stream.length]
        stream.prefix_filled = 0
        self.large_messages = len(message) >= LAID_OUT_BYTES
        stream.held += len(message)
        self.held += len(message)
        self.nuisance = max(0, self.nuisance - 2)
        self.owner.message(stream, message, stream.compressed)
        return 0

    cdef object _whole(self, Stream stream):
        """The message that has come, which is no longer the call's."""
        cdef object message = stream.region
        self.incomplete_bytes -= stream.filled
        stream.filled = 0
        if message is not None:
            stream.region = None
            return message
        message = <object>stream.body
        Py_XDECREF(stream.body)
        stream.body = NULL
        return message

    cdef int _remote_end(self, Stream stream) except -1:
        stream.remote_ended = True
        if stream.deaf:
            return 0
        if stream.streaming and not stream.prefix_filled:
            self.owner.finished(stream)
            return 0
        if stream.prefix_filled < 5 or stream.filled < stream.length:
            if stream.prefix_filled:
                return self._broken(stream, "the call ended within its message", False)
            return self._broken(stream, "the call ended without a message", False)
        stream.deaf = True
        stream.message = <bytes>self._whole(stream)  # only messages of many are laid out
        self.requests += 1
        self.nuisance = max(0, self.nuisance - 2)
        self.owner.complete(stream)
        return 0

    cdef int _broken(self, Stream stream, str reason, bint too_large) except -1:
        self._forget_body(stream)
        self.owner.broken(stream, reason, too_large)
        return 0

    cdef void _forget_body(self, Stream stream):
        stream.deaf = True
        self.incomplete_bytes -= stream.filled
        stream.filled = 0
        stream.region = None
        Py_XDECREF(stream.body)
        stream.body = NULL

    cdef int _control(self, const uint8_t* p, Py_ssize_t n) except -1:
        cdef int kind = self.frame_type
        cdef uint32_t stream_id = self.frame_stream
        cdef Stream stream
        if kind == F_HEADERS:
            return self._headers(p, n)
        if kind == F_CONTINUATION:
            if not self.block_stream:
                return self._fail(PROTOCOL_ERROR, "a continuation of nothing")
            self._nuisance()
            return self._more_block(p, n)
        if kind == F_WINDOW_UPDATE:
            return self._window_update(p, n)
        if self._nuisance():
            return 0
        if kind == F_SETTINGS:
            return self._settings(p, n)
        if kind == F_PING:
            if n != 8 or stream_id:
                return self._fail(FRAME_SIZE_ERROR if n != 8 else PROTOCOL_ERROR, "a malformed PING")
            payload = PyBytes_FromStringAndSize(<const char*>p, 8)
            if not self.frame_flags & ACK:
                self.out += _frame(F_PING, ACK, 0, payload)
            elif payload == _STOPPING:
                self.refuse_further()
        elif kind == F_RST_STREAM:
            if n != 4:
                return self._fail(FRAME_SIZE_ERROR, "a malformed RST_STREAM")
            if not stream_id or stream_id > self.last_stream_id:
                return self._fail(PROTOCOL_ERROR, "a reset of a stream that was not opened")
            stream = self.streams.pop(stream_id, None)
            if stream is not None:
                stream.remote_ended = True
                self._forget(stream)
                self.owner.reset(stream)
        elif kind == F_PRIORITY:
            if n != 5:
                return self._fail(FRAME_SIZE_ERROR, "a malformed PRIORITY")
        elif kind == F_GOAWAY:
            if n < 8 or stream_id:
                return self._fail(PROTOCOL_ERROR, "a malformed GOAWAY")
        elif kind == F_PUSH_PROMISE:
            return self._fail(PROTOCOL_ERROR, "a push from a client")
        return 0  # frames of other types are to be ignored

    cdef int _headers(self, const uint8_t* p, Py_ssize_t n) except -1:
        cdef Py_ssize_t padding = 0
        if not self.frame_stream & 1:
            return self._fail(PROTOCOL_ERROR, "a stream with an even number")
        if self.frame_flags & PADDED:
            if n < 1:
                return self._fail(FRAME_SIZE_ERROR, "padding without its length")
            padding = p[0]
            p += 1
            n -= 1
        if self.frame_flags & PRIORITY:
            p += 5
            n -= 5
        n -= padding
        if n < 0:
            return self._fail(PROTOCOL_ERROR, "more padding than header fields")
        self.block_stream = self.frame_stream
        self.block_ends_stream = self.frame_flags & END_STREAM
        return self._more_block(p, n)

    cdef int _more_block(self, const uint8_t* p, Py_ssize_t n) except -1:
        cdef bytes block
        if not self.block_stream:
            return 0
        if len(self.block) + n > self.max_block_bytes:
            return self._fail(ENHANCE_YOUR_CALM, f"headers of more than {self.max_block_bytes} bytes")
        block = PyBytes_FromStringAndSize(<const char*>p, n)
        if not self.frame_flags & END_HEADERS:
            self.block += block
            return 0
        if self.block:
            block = bytes(self.block) + block
            self.block.clear()
        stream_id = self.block_stream
        self.block_stream = 0
        return self._fields(stream_id, block, self.block_ends_stream)

    cdef int _fields(self, uint32_t stream_id, bytes block, bint ends) except -1:
        cdef Stream stream
        try:
            headers = self.decoder.decode(block)
        except HpackError as error:
            return self._fail(COMPRESSION_ERROR, str(error))
        if stream_id <= self.last_stream_id:
            stream = self.streams.get(stream_id)
            if stream is None or stream.ended:  # an answer crossed them
                self._nuisance()
                return 0
            if stream.remote_ended or not ends:
                return self._fail(PROTOCOL_ERROR, "headers within a call")
            return self._remote_end(stream)  # trailers; no client of gRPC has any
        self.last_stream_id = stream_id
        if self.refusing:
            return 0  # it was told: these are sent again elsewhere
        stream = Stream.__new__(Stream)
        stream.stream_id = stream_id
        stream.receive_window = self.stream_window
        stream.send_window = self.peer_stream_window
        if len(self.streams) >= self.max_streams:
            return self._reset(stream, REFUSED_STREAM)
        if headers is None:
            self._nuisance()
            return self._reset(stream, PROTOCOL_ERROR)
        stream.headers = headers
        self.streams[stream_id] = stream
        self.owner.begin(stream)
        if ends and not stream.ended:
            return self._remote_end(stream)
        return 0

    cdef int _settings(self, const uint8_t* p, Py_ssize_t n) except -1:
        cdef const uint8_t* end = p + n
        cdef uint32_t number, value
        cdef int64_t change
        cdef Stream stream
        if self.frame_stream or n % 6 or (self.frame_flags & ACK and n):
            return self._fail(FRAME_SIZE_ERROR if n % 6 else PROTOCOL_ERROR, "malformed SETTINGS")
        if self.frame_flags & ACK:
            return 0
        self.settled = True
        while p < end:
            number = <uint32_t>p[0] << 8 | p[1]
            value = _get32(p + 2)
            p += 6
            if number == 2 and value > 1:
                return self._fail(PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH above 1")
            if number == 4:
                if value > MAX_WINDOW:
                    return self._fail(FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE above 2**31 - 1")
                change = <int64_t>value - self.peer_stream_window
                self.peer_stream_window = value
                for stream in self.streams.values():
                    stream.send_window += change
                    if stream.send_window > MAX_WINDOW:
                        return self._fail(FLOW_CONTROL_ERROR, "a window above 2**31 - 1")
            if number == 5:
                if not 16384 <= value <= 16777215:
                    return self._fail(PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of its range")
                self.peer_frame_bytes = value
        self.out += _frame(F_SETTINGS, ACK, 0, b"")
        self._unblock()
        return 0

    cdef int _window_update(self, const uint8_t* p, Py_ssize_t n) except -1:
        cdef uint32_t more
        cdef Stream stream
        if n != 4:
            return self._fail(FRAME_SIZE_ERROR, "a malformed WINDOW_UPDATE")
        more = _get32(p) & 0x7FFFFFFF
        if not self.frame_stream:
            if not more:
                return self._fail(PROTOCOL_ERROR, "a window update of nothing")
            self.send_window += more
            if self.send_window > MAX_WINDOW:
                return self._fail(FLOW_CONTROL_ERROR, "a window above 2**31 - 1")
        else:
            if self.frame_stream > self.last_stream_id:
                return self._fail(PROTOCOL_ERROR, "a window for a stream that was not opened")
            stream = self.streams.get(self.frame_stream)
            if stream is None:
                return 0
            stream.send_window += more
            if not more or stream.send_window > MAX_WINDOW:
                self.owner.reset(stream)
                return self._reset(stream, FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR)
        if self.blocked:
            self._unblock()
        return 0

    # -- frames out --------------------------------------------------------------------------------
    cdef int _wait(self, Stream stream, object piece) except -1:
        """More of an answer, behind what waits of it already."""
        if stream.pieces is None:
            stream.pieces = []
            self.blocked.append(stream)
        if len(piece):
            stream.pieces.append(piece)
            stream.waiting_bytes += len(piece)
        return 0

    cdef int _unblock(self) except -1:
        """Send what the windows allow."""
        cdef Stream stream
        cdef list still = [], drained = []
        for stream in self.blocked:
            if stream.ended:
                continue
            while stream.waiting_bytes and self.send_window > 0 and stream.send_window > 0:
                self._send_some(stream)
            if stream.ended:
                continue
            if stream.waiting_bytes:
                still.append(stream)
                continue
            stream.pieces = None
            stream.piece = stream.sent = 0
            if stream.ending:
                if stream.trailers is None:
                    self.out += _frame(F_DATA, END_STREAM, stream.stream_id, b"")
                else:
                    self.out += _frame(F_HEADERS, END_HEADERS | END_STREAM, stream.stream_id, stream.trailers)
                self._end(stream)
            elif stream.tell_drained:
                stream.tell_drained = False
                drained.append(stream)
        self.blocked = still
        for stream in drained:
            self.owner.drained(stream)
        return 0

    cdef int _send_some(self, Stream stream) except -1:
        """One frame of what waits."""
        cdef object piece = stream.pieces[stream.piece]
        cdef Py_ssize_t length = len(piece)
        cdef Py_ssize_t n = min(length - stream.sent, self.peer_frame_bytes, self.send_window, stream.send_window)
        cdef bint last = stream.ending and stream.trailers is None and n == stream.waiting_bytes
        cdef bint whole = n == length
        if n < WHOLE_BYTES:
            data = bytes(piece if whole else piece[stream.sent : stream.sent + n])
            self.out += _frame(F_DATA, END_STREAM if last else 0, stream.stream_id, data)
        else:
            self.out += _data_head(n, END_STREAM if last else 0, stream.stream_id)
            self.large.append(bytes(self.out))
            self.out.clear()
            self.large.append(piece if whole else memoryview(piece)[stream.sent : stream.sent + n])
        self.send_window -= n
        stream.send_window -= n
        stream.waiting_bytes -= n
        stream.sent += n
        if stream.sent == length:
            stream.pieces[stream.piece] = None
            stream.piece += 1
            stream.sent = 0
        if last:
            self._end(stream)
        return 0

    cdef int _end(self, Stream stream) except -1:
        """Our side of a call is over; the client's too, if it had not finished."""
        if not stream.remote_ended:
            self.out += _frame(F_RST_STREAM, 0, stream.stream_id, _word(NO_ERROR))
        return self._forget(stream)

    cdef int _reset(self, Stream stream, uint32_t code) except -1:
        self.out += _frame(F_RST_STREAM, 0, stream.stream_id, _word(code))
        return self._forget(stream)

    cdef int _forget(self, Stream stream) except -1:
        """The call is over: nothing that came or waits for it is kept."""
        stream.ended = True
        self._forget_body(stream)
        stream.pieces = None
        stream.waiting_bytes = 0
        self.held -= stream.held
        stream.held = 0
        self.streams.pop(stream.stream_id, None)
        return 0 if self.closed else self._renew(None)

    cdef bint _nuisance(self) except -1:
        """Frames that cost and bring nothing; whether there were too many since data came."""
        self.nuisance += 1
        if self.nuisance > self.max_nuisance:
            self._fail(ENHANCE_YOUR_CALM, f"more than {self.max_nuisance} frames without a request")
        return self.closed

    cdef int _fail(self, uint32_t code, str reason) except -1:
        if not self.closed:
            self.closed = True
            self.error = reason
            self.out += _frame(F_GOAWAY, 0, 0, _word(self.last_stream_id) + _word(code) + reason.encode())
        return 0


cdef Py_ssize_t _read(int descriptor, const iovec* parts, int count) except -2:
    """Bytes read; 0: the peer has sent its last; -1: there is nothing just now."""
    cdef Py_ssize_t got, wanted = 0
    cdef int error
    for part in range(count):
        wanted += parts[part].iov_len
    while True:
        if wanted > READ_WITH_GIL:
            with nogil:
                got = readv(descriptor, parts, count)
                error = errno
        else:
            got = readv(descriptor, parts, count)
            error = errno
        if got >= 0:
            return got
        if error == EAGAIN:
            return -1
        if error != EINTR:
            raise OSError(error, os.strerror(error))
        PyErr_CheckSignals()


cdef int _new_body(Stream stream) except -1:
    """Memory for a message, or for its beginning. Where it is to lie at a page, and has all its room from the start, some
    bytes are left free before it."""
    cdef Py_ssize_t n = min(stream.length, STREAM_CAPACITY if stream.streaming else FIRST_CAPACITY)
    cdef bint laid_out = stream.page_at >= 0 and LAID_OUT_BYTES <= n == stream.length and not stream.compressed
    cdef bytes body
    stream.capacity = n
    stream.start = 0
    if laid_out and stream.streaming:
        stream.region = _new_region(n, stream.page_at)
        if stream.region is not None:
            return 0
    body = PyBytes_FromStringAndSize(NULL, n + PAGE_BYTES if laid_out else n)
    if laid_out:  # at least one: a message that begins where its memory does needs no view
        stream.start = PAGE_BYTES - (<uintptr_t>PyBytes_AS_STRING(body) + stream.page_at) % PAGE_BYTES
    stream.body = _own(body)
    return 0


cdef inline char* _end_of(Stream stream):
    """Where the next byte of a message goes."""
    if stream.region is not None:
        return <char*>stream.region.data + stream.filled
    return PyBytes_AS_STRING(<object>stream.body) + stream.start + stream.filled


cdef PyObject* _own(object value):
    Py_INCREF(value)
    return <PyObject*>value


# -- Arrow Flight ----------------------------------------------------------------------------------------
cdef inline bint _varint(const uint8_t** at, const uint8_t* end, uint64_t* value) noexcept:
    cdef const uint8_t* p = at[0]
    cdef int shift = 0
    value[0] = 0
    while p < end and shift < 64:
        value[0] |= <uint64_t>(p[0] & 0x7F) << shift
        if p[0] < 0x80:
            at[0] = p + 1
            return True
        p += 1
        shift += 7
    return False


def flight_data(message) -> tuple:
    """Header, body, which is not copied, and descriptor (None if there is none) of a ``FlightData``. Raises ``ValueError``."""
    cdef const uint8_t[::1] view = message
    cdef Py_ssize_t size = view.shape[0], from_body = 0, body_bytes = 0
    cdef const uint8_t* start = &view[0] if size else NULL
    cdef const uint8_t* p = start
    cdef const uint8_t* end = start + size
    cdef uint64_t tag, length
    cdef bytes header = b""
    cdef bytes descriptor = None
    while p < end:
        if not _varint(&p, end, &tag):
            raise ValueError("a number without end")
        if tag & 7 == 0:
            if not _varint(&p, end, &length):
                raise ValueError("a number without end")
            continue
        if tag & 7 == 1:
            length = 8
        elif tag & 7 == 5:
            length = 4
        elif tag & 7 != 2:
            raise ValueError(f"wire type {tag & 7}")
        elif not _varint(&p, end, &length):
            raise ValueError("a number without end")
        if length > <uint64_t>(end - p):
            raise ValueError("it ends early")
        if tag & 7 == 2:
            if tag >> 3 == 1:
                descriptor = PyBytes_FromStringAndSize(<const char*>p, length)
            elif tag >> 3 == 2:
                header = PyBytes_FromStringAndSize(<const char*>p, length)
            elif tag >> 3 == 1000:
                from_body = p - start
                body_bytes = length
        p += length
    return header, memoryview(message)[from_body:from_body + body_bytes], descriptor
