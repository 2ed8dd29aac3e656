# The flatbuffer in front of an Arrow IPC message: where its arrays and buffers lie. Every read is bounds-checked.

cdef enum:
    MESSAGE_VERSION = 0
    MESSAGE_HEADER_TYPE = 1
    MESSAGE_HEADER = 2
    MESSAGE_BODY_BYTES = 3
    MESSAGE_METADATA = 4
    METADATA_VERSION_5 = 4
    BATCH_ROWS = 0
    BATCH_NODES = 1
    BATCH_BUFFERS = 2
    BATCH_COMPRESSION = 3
    BATCH_VARIADIC = 4
    DICTIONARY_ID = 0
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


cdef struct FlatTable:
    size_t at
    size_t vtable
    size_t slots


cdef inline bint flat32(Flat* self, size_t at, uint32_t* value) noexcept nogil:
    if at > self.size or self.size - at < 4:
        return False
    value[0] = load32(self.data + at)
    return True


cdef bint flat_table(Flat* self, size_t table, FlatTable* found) noexcept nogil:
    """A table whose vtable lies inside, all of it where flatbuffers want it."""
    cdef uint32_t word
    cdef int64_t vtable
    cdef uint16_t size
    if table % 4 or not flat32(self, table, &word):
        return False
    vtable = <int64_t>table - <int32_t>word
    if vtable < 0 or vtable % 2 or <uint64_t>vtable + 4 > self.size:
        return False
    memcpy(&size, self.data + vtable, 2)
    if size < 4 or size % 2 or <uint64_t>vtable + size > self.size:
        return False
    found.at = table
    found.vtable = <size_t>vtable
    found.slots = (size - 4) // 2
    return True


cdef bint flat_field(Flat* self, FlatTable* table, int slot, size_t width, size_t* field) noexcept nogil:
    """Where a field of so many bytes lies; 0 if it is absent."""
    cdef uint16_t relative
    field[0] = 0
    if slot >= <int>table.slots:
        return True
    memcpy(&relative, self.data + table.vtable + 4 + 2 * slot, 2)
    if relative == 0:
        return True
    field[0] = table.at + relative
    return field[0] % width == 0 and field[0] < self.size and self.size - field[0] >= width


cdef bint flat_absent(Flat* self, FlatTable* table, int slot) noexcept nogil:
    cdef size_t field
    return flat_field(self, table, slot, 1, &field) and field == 0


cdef bint flat_inner(Flat* self, FlatTable* table, int slot, FlatTable* inner) noexcept nogil:
    """The table that a field points to."""
    cdef size_t field
    cdef uint32_t further
    return (
        flat_field(self, table, slot, 4, &field)
        and field != 0
        and flat32(self, field, &further)
        and flat_table(self, field + further, inner)
    )


cdef bint flat_int64(Flat* self, FlatTable* table, int slot, int64_t* value) noexcept nogil:
    cdef size_t field
    if not flat_field(self, table, slot, 8, &field):
        return False
    value[0] = <int64_t>load64(self.data + field) if field else 0
    return True


cdef bint flat_pairs(Flat* self, FlatTable* table, int slot, Position* pairs, size_t* count) noexcept nogil:
    """A vector of structs of two int64."""
    cdef size_t field, vector
    cdef uint32_t further, length
    if not flat_field(self, table, slot, 4, &field) or field == 0 or not flat32(self, field, &further):
        return False
    vector = field + further
    if vector % 8 != 4 or not flat32(self, vector, &length) or <uint64_t>length * 16 > self.size - vector - 4:
        return False
    pairs[0] = self.data + vector + 4
    count[0] = length
    return True


cdef bint flat_empty(Flat* self, FlatTable* table, int slot) noexcept nogil:
    """A vector that is not there, or has no members."""
    cdef size_t field
    cdef uint32_t further, length
    if not flat_field(self, table, slot, 4, &field):
        return False
    if field == 0:
        return True
    return (
        flat32(self, field, &further)
        and (field + further) % 4 == 0
        and flat32(self, field + further, &length)
        and length == 0
    )


cdef bint read_arrow_message(
    Message* self, int kind, Position header, size_t header_size, Position body, size_t body_size
) noexcept nogil:
    """Whether it is a message of this kind, whole, not compressed, no delta, and nothing in it that Arrow, which reads
    the log, could take amiss."""
    cdef Flat flat
    cdef uint32_t root
    cdef size_t field
    cdef int64_t number
    cdef FlatTable message, inner, batch
    cdef uint16_t version = 0
    flat.data = header
    flat.size = header_size
    if not flat32(&flat, 0, &root) or not flat_table(&flat, root, &message):
        return False
    if not flat_field(&flat, &message, MESSAGE_VERSION, 2, &field) or not field:
        return False
    memcpy(&version, header + field, 2)
    if version != METADATA_VERSION_5 or not flat_empty(&flat, &message, MESSAGE_METADATA):
        return False
    if not flat_field(&flat, &message, MESSAGE_HEADER_TYPE, 1, &field) or not field or header[field] != kind:
        return False
    if not flat_int64(&flat, &message, MESSAGE_BODY_BYTES, &number) or number != <int64_t>body_size or body_size % 8:
        return False
    if not flat_inner(&flat, &message, MESSAGE_HEADER, &inner):
        return False
    batch = inner
    if kind == HEADER_DICTIONARY:
        if not flat_int64(&flat, &inner, DICTIONARY_ID, &number):
            return False
        if not flat_field(&flat, &inner, DICTIONARY_IS_DELTA, 1, &field) or (field and header[field]):
            return False
        if not flat_inner(&flat, &inner, DICTIONARY_DATA, &batch):
            return False
    if not flat_absent(&flat, &batch, BATCH_COMPRESSION) or not flat_empty(&flat, &batch, BATCH_VARIADIC):
        return False
    self.body = body
    self.body_size = body_size
    return (
        flat_int64(&flat, &batch, BATCH_ROWS, &self.rows)
        and 0 <= self.rows <= INT32_MAX - 1
        and flat_pairs(&flat, &batch, BATCH_NODES, &self.nodes, &self.node_count)
        and flat_pairs(&flat, &batch, BATCH_BUFFERS, &self.buffers, &self.buffer_count)
        and buffers_are_apart(self)
    )


cdef bint buffers_are_apart(Message* message) noexcept nogil:
    """Whether each buffer lies in the body, aligned, and all together take no more than it: a hundred of them could
    name the same bytes."""
    cdef uint64_t total = 0
    cdef uint64_t at, size
    cdef size_t each
    for each in range(message.buffer_count):
        at = load64(message.buffers + 16 * each)
        size = load64(message.buffers + 16 * each + 8)
        if at % 8 or at > message.body_size or size > message.body_size - at:
            return False
        total += size
    return total <= message.body_size
