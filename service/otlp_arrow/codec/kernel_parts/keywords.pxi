# Dictionary-encoded strings: each distinct string once, rows hold its index.
#
# Telemetry repeats itself in order: after `http.request.method` comes `http.route`, as it did in the
# span before. So each entry remembers the two that came after it last, and a comparison with
# those usually finds the next string, before any hashing. A hash table finds the others.

cdef enum KeywordColumn:
    KEYWORD_END = 0
    KEYWORD_HASH = 1
    KEYWORD_NEXT = 2  # of entry i at [i + 1]; [0] is what a record begins with
    KEYWORD_OTHER = 3  # the same: what came next before that
    KEYWORD_COLUMNS = 4

cdef enum:
    NO_KEYWORD = -1  # null in a column; also "the first of its record" and "failed"
    FIRST_SLOTS = 256

cdef uint64_t HASH_KEY


cdef struct Keywords:
    Table entries
    Bytes text
    int32_t last  # the index that the column's last row has; columns of one string a record only
    uint32_t* slots  # entry + 1; 0 is free. At most half of them are taken
    size_t slot_count


cdef inline bint keyword_is(
    Keywords* self, int32_t entry, Position text, size_t length, Position limit
) noexcept nogil:
    cdef int32_t* ends = i32(&self.entries, KEYWORD_END) + entry
    cdef size_t start = <size_t>ends[0]
    if <size_t>ends[1] - start != length or entry >= <int32_t>self.entries.rows:
        return False
    if likely(length <= SHORT_BYTES and limit - text >= SHORT_BYTES):
        return short_equal(self.text.data + start, text, length)
    return memcmp(self.text.data + start, text, length) == 0


cdef inline int32_t keyword(
    Keywords* self, int32_t before, Position text, size_t length, Position limit
) noexcept nogil:
    """The index of a string, added if it is new; ``before`` is the index that came before it.

    ``NO_KEYWORD`` if it is no UTF-8 (or memory is out). ``limit`` is where readable bytes end.
    """
    cdef int32_t guess
    if unlikely(self.entries.rows == 0):
        return keyword_find(self, before, text, length, limit)
    guess = i32(&self.entries, KEYWORD_NEXT)[before + 1]
    if likely(keyword_is(self, guess, text, length, limit)):
        return guess
    return keyword_find(self, before, text, length, limit)


cdef inline bint keyword_put(
    Keywords* self, int32_t* column, size_t row, Position text, size_t length, Position limit
) noexcept nogil:
    """The one string of a row."""
    cdef int32_t entry = keyword(self, self.last, text, length, limit)
    self.last = entry
    column[row] = entry
    return entry != NO_KEYWORD


cdef int32_t keyword_find(
    Keywords* self, int32_t before, Position text, size_t length, Position limit
) noexcept nogil:
    cdef int32_t entry = NO_KEYWORD
    cdef uint32_t hashed
    if self.entries.rows > 0:
        entry = i32(&self.entries, KEYWORD_OTHER)[before + 1]
    if entry == NO_KEYWORD or not keyword_is(self, entry, text, length, limit):
        hashed = hash_bytes(text, length, HASH_KEY)
        entry = keyword_lookup(self, text, length, hashed, limit)
        if entry == NO_KEYWORD:
            entry = keyword_add(self, text, length, hashed) if is_utf8(text, length) else NO_KEYWORD
            if entry == NO_KEYWORD:
                return NO_KEYWORD
    i32(&self.entries, KEYWORD_OTHER)[before + 1] = i32(&self.entries, KEYWORD_NEXT)[before + 1]
    i32(&self.entries, KEYWORD_NEXT)[before + 1] = entry
    return entry


cdef int32_t keyword_lookup(
    Keywords* self, Position text, size_t length, uint32_t hashed, Position limit
) noexcept nogil:
    cdef uint32_t* hashes = <uint32_t*>i32(&self.entries, KEYWORD_HASH)
    cdef size_t slot
    cdef int32_t entry
    if self.slot_count == 0:
        return NO_KEYWORD
    slot = hashed & (self.slot_count - 1)
    while self.slots[slot] != 0:
        entry = <int32_t>(self.slots[slot] - 1)
        if hashes[entry] == hashed and keyword_is(self, entry, text, length, limit):
            return entry
        slot = (slot + 1) & (self.slot_count - 1)
    return NO_KEYWORD


cdef int32_t keyword_add(Keywords* self, Position text, size_t length, uint32_t hashed) noexcept nogil:
    cdef int32_t entry = <int32_t>self.entries.rows
    if not table_reserve(&self.entries, 1):
        return NO_KEYWORD
    if 2 * (self.entries.rows + 1) > self.slot_count and not keywords_rehash(self):
        return NO_KEYWORD
    if not bytes_append(&self.text, text, length):
        return NO_KEYWORD
    i32(&self.entries, KEYWORD_END)[entry + 1] = <int32_t>self.text.length
    i32(&self.entries, KEYWORD_HASH)[entry] = <int32_t>hashed
    i32(&self.entries, KEYWORD_NEXT)[entry + 1] = 0
    i32(&self.entries, KEYWORD_OTHER)[entry + 1] = 0
    self.entries.rows += 1
    keywords_place(self, entry)
    return entry


cdef void keywords_place(Keywords* self, int32_t entry) noexcept nogil:
    cdef size_t slot = <uint32_t>i32(&self.entries, KEYWORD_HASH)[entry] & (self.slot_count - 1)
    while self.slots[slot] != 0:
        slot = (slot + 1) & (self.slot_count - 1)
    self.slots[slot] = <uint32_t>entry + 1


cdef bint keywords_rehash(Keywords* self) noexcept nogil:
    cdef size_t slot_count = max(2 * self.slot_count, <size_t>FIRST_SLOTS)
    cdef void* slots = calloc(slot_count, sizeof(uint32_t))
    cdef size_t entry
    if slots == NULL:
        self.entries.bounds.fault = OUT_OF_MEMORY
        return False
    free(self.slots)
    self.slots = <uint32_t*>slots
    self.slot_count = slot_count
    for entry in range(self.entries.rows):
        keywords_place(self, <int32_t>entry)
    return True


cdef void keywords_cut(Keywords* self, size_t count) noexcept nogil:
    """Forget the entries from ``count`` on.

    The last entry was placed last, so nothing was placed behind it: freeing its slot is enough.
    """
    cdef size_t entry, slot
    while self.entries.rows > count:
        entry = self.entries.rows - 1
        slot = <uint32_t>i32(&self.entries, KEYWORD_HASH)[entry] & (self.slot_count - 1)
        while self.slots[slot] != entry + 1:
            slot = (slot + 1) & (self.slot_count - 1)
        self.slots[slot] = 0
        self.entries.rows = entry
    self.text.length = offset_at(&self.entries, KEYWORD_END, count)


cdef void keywords_clear(Keywords* self, bint idle) noexcept nogil:
    self.last = NO_KEYWORD
    table_clear(&self.entries, idle)
    bytes_clear(&self.text, idle)
    if self.entries.capacity > 0:
        memset(self.slots, 0, self.slot_count * sizeof(uint32_t))
    else:
        free(self.slots)
        self.slots = NULL
        self.slot_count = 0
