# Growing buffers: what the scan writes, and what Arrow's arrays are made of afterwards.
#
# Sizes double, and large blocks move by remapping pages, so growing costs little; what costs is the
# first touch of each page (0.8 us a span in a sketch that gave its memory back after each batch).
# Therefore `clear` keeps the memory as long as batches of late have needed a good part of it; a builder
# that is cleared though it is empty is idle, and keeps none.

cdef enum Fault:
    NO_FAULT
    OUT_OF_MEMORY
    FULL  # more members or bytes below one column than `max_offset`, or in all than `max_held_bytes`

cdef enum:
    SLACK = 64  # bytes after each buffer that a copy may overwrite, or a comparison read
    FIRST_ROWS = 256
    FIRST_BYTES = 4096
    KEPT_SHARE = 4  # memory stays while batches of late filled at least a quarter of it


cdef struct Bounds:
    # What all buffers of a builder share: how long they may be, and what went wrong.
    size_t max_offset
    uint64_t max_held_bytes
    Fault fault


cdef struct Bytes:
    uint8_t* data
    size_t length
    size_t capacity
    size_t recent  # the greatest length of late
    Bounds* bounds


cdef bint bytes_grow(Bytes* self, size_t more) noexcept nogil:
    cdef size_t needed = self.length + more
    cdef size_t capacity = max(2 * self.capacity, needed, <size_t>FIRST_BYTES)
    cdef void* data
    if needed > self.bounds.max_offset:
        self.bounds.fault = FULL
        return False
    data = realloc(self.data, capacity + SLACK)
    if data == NULL:
        self.bounds.fault = OUT_OF_MEMORY
        return False
    self.data = <uint8_t*>data
    self.capacity = capacity
    return True


cdef inline bint bytes_reserve(Bytes* self, size_t more) noexcept nogil:
    """Room for so many more bytes and the slack behind them; true even of none, for which ``data`` is there too."""
    return likely(more < self.capacity - self.length) or bytes_grow(self, more)


cdef inline bint bytes_append(Bytes* self, const void* data, size_t size) noexcept nogil:
    if not bytes_reserve(self, size):
        return False
    if size > 0:
        memcpy(self.data + self.length, data, size)
        self.length += size
    return True


cdef bint bytes_repeat(Bytes* self, size_t size, size_t times) noexcept nogil:
    """Append the last ``size`` bytes ``times`` times more."""
    if size == 0:
        return True
    if <uint64_t>size * times > self.bounds.max_offset:
        self.bounds.fault = FULL
        return False
    if not bytes_reserve(self, size * times):
        return False
    repeat(self.data + self.length - size, size, times)
    self.length += size * times
    return True


cdef void bytes_clear(Bytes* self, bint idle) noexcept nogil:
    self.recent = 0 if idle else max(self.length, self.recent // 2)
    if self.recent * KEPT_SHARE < self.capacity and self.capacity > FIRST_BYTES:
        bytes_free(self)
    self.length = 0


cdef void bytes_free(Bytes* self) noexcept nogil:
    free(self.data)
    self.data = NULL
    self.capacity = 0


cdef enum:
    REPEAT_BLOCK = 16384  # half of the first-level cache: what is copied over and over stays in it


cdef void repeat(uint8_t* block, size_t size, size_t times) noexcept nogil:
    """Copy a block ``times`` times behind itself, in steps that grow to ``REPEAT_BLOCK``."""
    cdef size_t done = size
    cdef size_t total = size * (times + 1)
    cdef size_t step
    while done < total:
        step = done if done <= REPEAT_BLOCK else max(<size_t>REPEAT_BLOCK // size, <size_t>1) * size
        step = min(step, total - done)
        memcpy(block + done, block, step)
        done += step


# -- tables: columns of equal length ---------------------------------------------------------------

cdef enum:
    MAX_COLUMNS = 48


cdef struct Table:
    size_t rows
    size_t capacity
    size_t recent  # the greatest number of rows of late
    size_t row_bytes
    int columns
    int zeroed  # the columns from this one on are zero wherever nothing was written
    uint8_t width[MAX_COLUMNS]
    # Columns of offsets hold one more: 0, then the end of each row. All have the room for it.
    uint8_t* column[MAX_COLUMNS]
    Bounds* bounds


cdef void table_widen(Table* self, int columns) noexcept nogil:
    """So many columns in all, the new ones of four bytes a row; before any rows."""
    while self.columns < columns:
        self.width[self.columns] = 4
        self.row_bytes += 4
        self.columns += 1
    self.zeroed = columns


cdef void table_width(Table* self, int column, int width) noexcept nogil:
    self.row_bytes += width - self.width[column]
    self.width[column] = <uint8_t>width


cdef bint table_grow(Table* self, size_t rows) noexcept nogil:
    cdef size_t capacity = max(2 * self.capacity, rows, <size_t>FIRST_ROWS)
    cdef size_t size
    cdef int column
    cdef void* data
    if rows > self.bounds.max_offset:
        self.bounds.fault = FULL
        return False
    capacity = min(capacity, self.bounds.max_offset)
    for column in range(self.columns):
        size = (capacity + 1) * self.width[column] + SLACK
        if column >= self.zeroed:
            # Fresh pages are zero without being touched.
            data = calloc(size, 1)
            if data != NULL and self.capacity > 0:
                memcpy(data, self.column[column], (self.rows + 1) * self.width[column])
                free(self.column[column])
        else:
            data = realloc(self.column[column], size)
        if data == NULL:
            self.bounds.fault = OUT_OF_MEMORY
            return False
        self.column[column] = <uint8_t*>data
        if self.capacity == 0:
            memset(data, 0, self.width[column])
    self.capacity = capacity
    return True


cdef inline bint table_reserve(Table* self, size_t more) noexcept nogil:
    return likely(more <= self.capacity - self.rows) or table_grow(self, self.rows + more)


cdef void table_clear(Table* self, bint idle) noexcept nogil:
    self.recent = 0 if idle else max(self.rows, self.recent // 2)
    if self.recent * KEPT_SHARE < self.capacity and self.capacity > FIRST_ROWS:
        table_free(self)
    self.rows = 0


cdef void table_free(Table* self) noexcept nogil:
    cdef int column
    for column in range(self.columns):
        free(self.column[column])
        self.column[column] = NULL
    self.capacity = 0


cdef inline uint8_t* u8(Table* self, int column) noexcept nogil:
    return self.column[column]


cdef inline int32_t* i32(Table* self, int column) noexcept nogil:
    return <int32_t*>self.column[column]


cdef inline int64_t* i64(Table* self, int column) noexcept nogil:
    return <int64_t*>self.column[column]


cdef inline double* f64(Table* self, int column) noexcept nogil:
    return <double*>self.column[column]


cdef inline size_t offset_at(Table* self, int column, size_t row) noexcept nogil:
    """Where the members of ``row`` begin. A table that never had rows has no memory yet."""
    return <size_t>i32(self, column)[row] if self.capacity > 0 else 0


cdef inline void fill32(Table* self, int column, size_t first, size_t rows, int32_t value) noexcept nogil:
    cdef int32_t* data = i32(self, column) + first
    cdef size_t row
    for row in range(rows):
        data[row] = value


cdef void repeat_offsets(int32_t* ends, size_t count, size_t times) noexcept nogil:
    """``ends[1..count]`` are ends after ``ends[0]``: go on alike ``times`` times more."""
    cdef uint32_t step = <uint32_t>(ends[count] - ends[0])
    cdef int32_t* block = ends + 1
    cdef int32_t* to
    cdef uint32_t further
    cdef size_t rounds = 1
    cdef size_t done = 1
    cdef size_t entry
    # Long runs with one addend: the compiler makes vectors of them.
    while done <= times:
        rounds = min(rounds, times + 1 - done)
        to = block + done * count
        further = step * <uint32_t>done
        for entry in range(rounds * count):
            to[entry] = <int32_t>(<uint32_t>block[entry] + further)
        done += rounds
        if done * count <= REPEAT_BLOCK // sizeof(int32_t):
            rounds = done


# -- text that few rows have -----------------------------------------------------------------------

cdef struct Sparse:
    Bytes bytes
    Table* table
    int column  # of the ends, which are written up to row `filled` only, the rest before they are read
    size_t filled


cdef void sparse_fill(Sparse* self, size_t rows) noexcept nogil:
    cdef int32_t* ends = i32(self.table, self.column)
    cdef int32_t end = <int32_t>self.bytes.length
    cdef size_t row
    for row in range(self.filled, rows):
        ends[row + 1] = end
    self.filled = max(self.filled, rows)


cdef bint sparse_put(Sparse* self, size_t row, Position data, size_t size) noexcept nogil:
    sparse_fill(self, row)
    if not bytes_append(&self.bytes, data, size):
        return False
    i32(self.table, self.column)[row + 1] = <int32_t>self.bytes.length
    self.filled = row + 1
    return True


cdef void sparse_cut(Sparse* self, size_t rows) noexcept nogil:
    if self.filled > rows:
        self.filled = rows
        self.bytes.length = offset_at(self.table, self.column, rows)
