# Where the attributes of a row of an Arrow batch are those of the row before, seen without a look at what they are.

cdef enum:
    MAX_LIKENESSES = 256  # runs of rows alike in a batch: with more of them it is taken row by row
    LOOKED_UP_PER_MEMBER = 4  # keys of the dictionary, in all runs: a long one is not to be cleared for each of many
    MEMBERS_NODES = 9  # entries, key, value, type, str, int, double, bool, bytes
    MEMBERS_BUFFERS = 18


cdef struct MembersView:
    # Buffers of a map of attributes that are as long as they should be; NULL where all values are null or,
    # of a bitmap, none or all.
    size_t members
    Position ends
    Position keys
    Position types
    Position strs
    Position text
    Position values[3]  # int, double, bool
    Position bits[4]  # str, int, double, bool
    bint all_null[4]
    size_t keys_count  # different ones, of the dictionary


cdef bint view_members(MembersView* self, Gathering* at, size_t rows) noexcept nogil:
    """Read over the nodes and buffers of the map; false if it is damaged or has anything unusual."""
    cdef Dictionary* dictionary
    cdef size_t each, end, before = 0
    cdef Position end_at
    if rows < 2 or not gather_required(at, rows):
        return False
    self.ends = gather_buffer(at, (rows + 1) * 4)
    if self.ends == NULL or load32(self.ends) != 0:
        return False
    for each in range(1, rows + 1):
        end = load32(self.ends + 4 * each)
        if end < before:
            return False
        before = end
    self.members = before
    if before == 0 or before > INT32_MAX or at.dictionary == at.dictionary_count:
        return False
    dictionary = at.dictionaries[at.dictionary]
    if <uint64_t>dictionary.ends[dictionary.count] * before > at.max_repeated_bytes:
        return False
    self.keys_count = dictionary.count
    if not gather_required(at, before) or not gather_required(at, before):
        return False
    self.keys = gather_buffer(at, before * 4)
    if self.keys == NULL or not gather_required(at, before) or not gather_required(at, before):
        return False
    self.types = gather_buffer(at, before)
    if self.types == NULL or not view_nulls(self, at, 0):
        return False
    self.strs = gather_buffer(at, (before + 1) * 4)
    if self.strs == NULL or load32(self.strs) != 0 or not ends_rise(self.strs, before):
        return False
    end_at = self.strs + 4 * before
    self.text = gather_buffer(at, load32(end_at))
    if self.text == NULL:
        return False
    for each in range(1, 4):
        if not view_nulls(self, at, <int>each):
            return False
        self.values[each - 1] = gather_buffer(at, (before + 7) // 8 if each == 3 else before * 8)
        if self.values[each - 1] == NULL:
            return False
        if self.all_null[each]:
            self.values[each - 1] = NULL
    if not gather_node(at, before) or at.nulls != before or bits_count(at.bits, before) != 0:
        return False
    end_at = gather_buffer(at, (before + 1) * 4)
    if end_at == NULL or load32(end_at) != 0 or memcmp(end_at, end_at + 4, before * 4) != 0:
        return False
    return gather_buffer(at, 0) != NULL


cdef bint view_nulls(MembersView* self, Gathering* at, int which) noexcept nogil:
    if not gather_node(at, self.members):
        return False
    self.all_null[which] = at.nulls == self.members
    self.bits[which] = at.bits
    if self.all_null[which]:
        self.bits[which] = NULL
    return at.bits == NULL or self.members - bits_count(at.bits, self.members) == at.nulls


cdef bint ends_rise(Position ends, size_t count) noexcept nogil:
    cdef bint falls = False
    cdef size_t each
    for each in range(count):
        falls |= <int32_t>load32(ends + 4 * (each + 1)) < <int32_t>load32(ends + 4 * each)
    return not falls


cdef size_t view_likenesses(const MembersView* self, size_t rows, size_t* times) noexcept nogil:
    """How many rows in a row are alike, again and again; in how many runs, or 0 if there are too many."""
    cdef size_t row = 0, runs = 0
    while row < rows:
        if runs == MAX_LIKENESSES or runs * 4 > rows:
            return 0
        times[runs] = view_times(self, row, rows - row)
        row += times[runs]
        runs += 1
    return runs if runs * self.keys_count <= LOOKED_UP_PER_MEMBER * self.members else 0


cdef size_t view_times(const MembersView* self, size_t row, size_t rows) noexcept nogil:
    """How many of ``rows`` rows from ``row`` on are like it, itself included."""
    cdef size_t at = load32(self.ends + 4 * row)
    cdef size_t count = load32(self.ends + 4 * (row + 1)) - at
    cdef size_t times = 1, each, text, step
    cdef Position strs
    while times < rows and load32(self.ends + 4 * (row + times + 1)) - load32(self.ends + 4 * (row + times)) == count:
        times += 1
    if count == 0:
        return times
    times = likenesses(self.keys + 4 * at, 4 * count, times)
    times = likenesses(self.types + at, count, times)
    strs = self.strs + 4 * at
    text = load32(strs)
    step = load32(strs + 4 * count) - text
    for each in range(1, count * (times - 1) + 1):
        if load32(strs + 4 * (each + count)) - load32(strs + 4 * each) != step:
            times = 1 + (each - 1) // count
            break
    if step > 0:
        times = likenesses(self.text + text, step, times)
    for each in range(2):
        if self.values[each] != NULL:
            times = likenesses(self.values[each] + 8 * at, 8 * count, times)
    if self.values[2] != NULL:
        times = bits_likenesses(self.values[2], at, count, times)
    for each in range(4):
        if self.bits[each] != NULL:
            times = bits_likenesses(self.bits[each], at, count, times)
    return times


cdef inline size_t likenesses(Position data, size_t size, size_t times) noexcept nogil:
    """How many of the ``times`` blocks of ``size`` bytes from ``data`` on are like the first."""
    cdef size_t total = size * (times - 1)
    if memcmp(data + size, data, total) == 0:
        return times
    return 1 + bytes_alike(data + size, data, data + size + total) // size


cdef bint view_block(
    const MembersView* self, size_t row, size_t count, Gathering* whole, Gathering* block
) noexcept nogil:
    """The attributes of one row, as if they were all there are."""
    cdef Bytes* memory = whole.block
    cdef size_t at = load32(self.ends + 4 * row)
    cdef size_t text = load32(self.strs + 4 * at)
    cdef size_t text_size = load32(self.strs + 4 * (at + count)) - text
    cdef size_t bits_size = (count + 7) // 8
    cdef int64_t* nodes
    cdef uint64_t* buffers
    cdef uint8_t* body
    cdef size_t each, head = 16 * (MEMBERS_NODES + MEMBERS_BUFFERS)
    cdef uint32_t end
    cdef int buffer = 0
    memory.length = 0
    # Everything once, bitmaps and offsets of what is null included.
    if not bytes_reserve(memory, head + count * 32 + 8 + text_size + 5 * bits_size + 8):
        return False
    nodes = <int64_t*>memory.data
    buffers = <uint64_t*>(memory.data + 16 * MEMBERS_NODES)
    body = memory.data + head
    block[0] = whole[0]
    block.message.nodes = <Position>nodes
    block.message.node_count = MEMBERS_NODES
    block.message.buffers = <Position>buffers
    block.message.buffer_count = MEMBERS_BUFFERS
    block.message.body = body
    block.node = block.buffer = 0
    memory.length = 0  # of the body, from here on
    for each in range(<size_t>MEMBERS_NODES):
        nodes[2 * each] = <int64_t>count
        nodes[2 * each + 1] = 0
    memset(buffers, 0, 16 * MEMBERS_BUFFERS)
    block_put(memory, body, &buffers[2 * 2], self.keys + 4 * at, 4 * count)
    block_put(memory, body, &buffers[2 * 5], self.types + at, count)
    for each in range(4):
        nodes[2 * (4 + each) + 1] = block_bits(
            memory, body, &buffers[2 * (6 + (2 * each + 1 if each else 0))], self.bits[each], self.all_null[each], at, count
        )
    buffers[2 * 7] = memory.length
    buffers[2 * 7 + 1] = 4 * (count + 1)
    for each in range(count + 1):
        end = load32(self.strs + 4 * (at + each)) - <uint32_t>text
        memcpy(body + memory.length + 4 * each, &end, 4)
    memory.length += 4 * (count + 1)
    block_put(memory, body, &buffers[2 * 8], self.text + text, text_size)
    for each in range(2):
        if self.values[each] != NULL:
            block_put(memory, body, &buffers[2 * (10 + 2 * each)], self.values[each] + 8 * at, 8 * count)
        else:
            block_zeros(memory, body, &buffers[2 * (10 + 2 * each)], 8 * count)
    if self.values[2] != NULL:
        block_bits(memory, body, &buffers[2 * 14], self.values[2], False, at, count)
    else:
        block_zeros(memory, body, &buffers[2 * 14], bits_size)
    nodes[2 * 8 + 1] = <int64_t>count
    block_zeros(memory, body, &buffers[2 * 15], bits_size)
    block_zeros(memory, body, &buffers[2 * 16], 4 * (count + 1))
    block.message.body_size = memory.length
    return True


cdef inline void block_put(Bytes* memory, uint8_t* body, uint64_t* buffer, Position data, size_t size) noexcept nogil:
    memcpy(body + memory.length, data, size)
    buffer[0] = memory.length
    buffer[1] = size
    memory.length += size


cdef inline void block_zeros(Bytes* memory, uint8_t* body, uint64_t* buffer, size_t size) noexcept nogil:
    memset(body + memory.length, 0, size)
    buffer[0] = memory.length
    buffer[1] = size
    memory.length += size


cdef int64_t block_bits(
    Bytes* memory, uint8_t* body, uint64_t* buffer, Position bits, bint all_null, size_t at, size_t count
) noexcept nogil:
    """Part of a bitmap; how many are not set. Without one all or none are."""
    cdef size_t each
    if bits == NULL and not all_null:
        return 0
    block_zeros(memory, body, buffer, (count + 7) // 8)
    if bits == NULL:
        return <int64_t>count
    for each in range(count):
        (body + buffer[0])[each >> 3] |= ((bits[(at + each) >> 3] >> ((at + each) & 7)) & 1) << (each & 7)
    return <int64_t>(count - bits_count(body + buffer[0], count))
