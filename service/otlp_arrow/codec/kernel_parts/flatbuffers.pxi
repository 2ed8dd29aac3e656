# The flatbuffer in front of an Arrow IPC message: where its arrays and buffers lie. Every read is bounds-checked.

cdef enum:
    MESSAGE_HEADER_TYPE = 1
    MESSAGE_HEADER = 2
    MESSAGE_BODY_BYTES = 3
    BATCH_ROWS = 0
    BATCH_NODES = 1
    BATCH_BUFFERS = 2
    BATCH_COMPRESSION = 3
    DICTIONARY_DATA = 1
    DICTIONARY_IS_DELTA = 2
    HEADER_DICTIONARY = 2
    HEADER_BATCH = 3


cdef struct Message:
    # A record batch, or that of a dictionary; plain, or it is none.
    int64_t rows
    Position nodes  # pairs of int64: rows, nulls
    size_t node_count
    Position buffers  # pairs of int64: offset, bytes
    size_t buffer_count
    Position body
    size_t body_size


cdef struct Flat:
    Position data
    size_t size


cdef inline bint flat32(Flat* self, size_t at, uint32_t* value) noexcept nogil:
    if at > self.size or self.size - at < 4:
        return False
    value[0] = load32(self.data + at)
    return True


cdef bint flat_follow(Flat* self, size_t at, size_t* target) noexcept nogil:
    """Where the offset at ``at`` points; ``at`` is 0 where a field is absent."""
    cdef uint32_t further
    if at == 0 or not flat32(self, at, &further):
        return False
    target[0] = at + further
    return target[0] < self.size


cdef bint flat_field(Flat* self, size_t table, int slot, size_t* field) noexcept nogil:
    """Where a field of a table lies; 0 if it is absent."""
    cdef uint32_t word
    cdef int64_t vtable
    cdef uint16_t size, relative
    field[0] = 0
    if not flat32(self, table, &word):
        return False
    vtable = <int64_t>table - <int32_t>word
    if vtable < 0 or <uint64_t>vtable + 4 > self.size:
        return False
    memcpy(&size, self.data + vtable, 2)
    if 4 + 2 * slot + 2 > size:
        return True
    if <uint64_t>vtable + 4 + 2 * slot + 2 > self.size:
        return False
    memcpy(&relative, self.data + vtable + 4 + 2 * slot, 2)
    if relative:
        field[0] = table + relative
    return field[0] < self.size


cdef bint flat_pairs(Flat* self, size_t table, int slot, Position* pairs, size_t* count) noexcept nogil:
    """A vector of structs of two int64."""
    cdef size_t field, vector
    cdef uint32_t length
    if not flat_field(self, table, slot, &field) or not flat_follow(self, field, &vector):
        return False
    if not flat32(self, vector, &length) or <uint64_t>length * 16 > self.size - vector - 4:
        return False
    pairs[0] = self.data + vector + 4
    count[0] = length
    return True


cdef bint read_arrow_message(
    Message* self, int kind, Position header, size_t header_size, Position body, size_t body_size
) noexcept nogil:
    """Whether it is a message of this kind, whole, not compressed, and no delta."""
    cdef Flat flat
    cdef uint32_t root
    cdef size_t field, table
    flat.data = header
    flat.size = header_size
    if not flat32(&flat, 0, &root) or root >= header_size:
        return False
    if not flat_field(&flat, root, MESSAGE_HEADER_TYPE, &field) or not field or header[field] != kind:
        return False
    if not flat_field(&flat, root, MESSAGE_BODY_BYTES, &field):
        return False
    if (load_int64(&flat, field) if field else 0) != <int64_t>body_size:
        return False
    if not flat_field(&flat, root, MESSAGE_HEADER, &field) or not flat_follow(&flat, field, &table):
        return False
    if kind == HEADER_DICTIONARY:
        if not flat_field(&flat, table, DICTIONARY_IS_DELTA, &field) or (field and header[field]):
            return False
        if not flat_field(&flat, table, DICTIONARY_DATA, &field) or not flat_follow(&flat, field, &table):
            return False
    if not flat_field(&flat, table, BATCH_COMPRESSION, &field) or field:
        return False
    if not flat_field(&flat, table, BATCH_ROWS, &field):
        return False
    self.rows = load_int64(&flat, field) if field else 0
    self.body = body
    self.body_size = body_size
    return (
        0 <= self.rows <= INT32_MAX - 1
        and flat_pairs(&flat, table, BATCH_NODES, &self.nodes, &self.node_count)
        and flat_pairs(&flat, table, BATCH_BUFFERS, &self.buffers, &self.buffer_count)
    )


cdef inline int64_t load_int64(Flat* self, size_t at) noexcept nogil:
    """-1 where it does not lie inside."""
    return <int64_t>load64(self.data + at) if self.size - at >= 8 else -1
