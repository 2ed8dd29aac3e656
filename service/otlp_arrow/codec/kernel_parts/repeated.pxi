# Attributes that many rows in a row have alike, those of resources and scopes: kept once, with how often.
#
# A row's own copy took half of all that a batch of spans holds: to write, to hold, and to compress again into next to
# nothing. The ends of the lists count as if each row had its own; who wants them so has them `spread`.

cdef struct Run:
    size_t first  # in `once`
    size_t count
    size_t times  # so many rows have them, one after another
    bint is_mixed  # those of several rows, as they came; once


cdef struct Repeated:
    Attributes once
    Bytes runs  # of Run; the last one ends where `once` does
    size_t rows  # of attributes, and bytes of their text and octets, as if each row had its own
    size_t text
    size_t octets
    Bytes told[4]  # ZstdRun of keys, text, ints, doubles
    Values spread
    int spread_stage  # 0: nothing of it holds; 1: types, ends and octets; 2: everything


cdef enum:
    MIN_TIMES = 16  # of the attributes on average: below, looking for likeness anew finds more than runs tell
    MIN_TIMES_OF_MIXED = 64  # of all attributes to one that is mixed: those are told byte by byte
    MIN_RUN_ATTRIBUTES = 1024  # fewer are not worth it


cdef inline Run* repeated_runs(Repeated* self) noexcept nogil:
    return <Run*>self.runs.data


cdef inline size_t repeated_run_count(Repeated* self) noexcept nogil:
    return self.runs.length // sizeof(Run)


cdef inline size_t values_text_size(Values* self, size_t first, size_t count) noexcept nogil:
    cdef int32_t* ends = i32(&self.table, VALUE_STR_END)
    return <size_t>(ends[first + count] - ends[first])


cdef size_t values_octets_size(Values* self, size_t first, size_t count) noexcept nogil:
    cdef int32_t* ends = i32(&self.table, VALUE_BYTES_END)
    if self.octets.filled <= first:
        return 0
    sparse_fill(&self.octets, first + count)
    return <size_t>(ends[first + count] - ends[first])


cdef bint attributes_alike(Attributes* self, size_t a, size_t b, size_t count) noexcept nogil:
    """Whether ``count`` attributes from ``a`` on are those from ``b`` on; false, too, where there are bytes."""
    cdef Values* values = &self.values
    cdef Table* table = &values.table
    cdef int32_t* ends = i32(table, VALUE_STR_END)
    cdef size_t each, text = values_text_size(values, a, count)
    if values.octets.filled > min(a, b) or values_text_size(values, b, count) != text:
        return False
    for each in range(count):
        if ends[a + each + 1] - ends[a + each] != ends[b + each + 1] - ends[b + each]:
            return False
    return (
        memcmp(u8(table, VALUE_TYPE) + a, u8(table, VALUE_TYPE) + b, count) == 0
        and memcmp(i32(table, VALUE_KEY) + a, i32(table, VALUE_KEY) + b, 4 * count) == 0
        and (text == 0 or memcmp(values.text.data + ends[a], values.text.data + ends[b], text) == 0)
        and memcmp(i64(table, VALUE_INT) + a, i64(table, VALUE_INT) + b, 8 * count) == 0
        and memcmp(f64(table, VALUE_DOUBLE) + a, f64(table, VALUE_DOUBLE) + b, 8 * count) == 0
    )


cdef bint repeated_add(Repeated* self, size_t first, size_t times, bint is_mixed) noexcept nogil:
    """The attributes in ``once`` from ``first`` on are those of each of ``times`` rows or, mixed, of all rows together."""
    cdef Values* values = &self.once.values
    cdef size_t count = values.table.rows - first
    cdef size_t text, octets, max_offset = values.table.bounds.max_offset
    cdef Run* last
    cdef Run run
    if count == 0:
        return True
    text = values_text_size(values, first, count)
    octets = values_octets_size(values, first, count)
    if (
        <uint64_t>count * times > max_offset - min(self.rows, max_offset)
        or <uint64_t>text * times > max_offset - min(self.text, max_offset)
        or <uint64_t>octets * times > max_offset - min(self.octets, max_offset)
    ):
        values.table.bounds.fault = FULL
        return False
    self.spread_stage = 0
    if not is_mixed and self.runs.length:
        last = repeated_runs(self) + repeated_run_count(self) - 1
        if not last.is_mixed and last.count == count and attributes_alike(&self.once, last.first, first, count):
            attributes_cut(&self.once, first)
            last.times += times
            self.rows += count * times
            self.text += text * times
            return True
    run = Run(first, count, times, is_mixed)
    if not bytes_append(&self.runs, &run, sizeof(Run)):
        return False
    self.rows += count * times
    self.text += text * times
    self.octets += octets * times
    return True


cdef void repeated_cut(Repeated* self, size_t rows) noexcept nogil:
    """Forget the attributes from ``rows`` on, where those of a row begin, and all that is not of a run."""
    cdef Values* values = &self.once.values
    cdef size_t start, gone, end = 0
    cdef Run* last
    self.spread_stage = 0
    while self.runs.length:
        last = repeated_runs(self) + repeated_run_count(self) - 1
        end = last.first + last.count
        if self.rows <= rows:
            break
        start = self.rows - last.count * last.times
        if last.is_mixed:
            gone = min(self.rows - rows, last.count)
            last.count -= gone
            self.text -= values_text_size(values, end - gone, gone)
            self.octets -= values_octets_size(values, end - gone, gone)
            self.rows -= gone
        else:
            gone = last.times - ((rows - start) // last.count if rows > start else 0)
            last.times -= gone
            self.text -= values_text_size(values, last.first, last.count) * gone
            self.octets -= values_octets_size(values, last.first, last.count) * gone
            self.rows -= last.count * gone
        if last.count == 0 or last.times == 0:
            self.runs.length -= sizeof(Run)
            end = last.first
    attributes_cut(&self.once, end)


cdef uint64_t repeated_more_bytes(Repeated* self) noexcept nogil:
    """What they would take more if each row had its own; a bound that holds for what readers get, too."""
    cdef Values* once = &self.once.values
    return (
        (self.rows - once.table.rows) * once.table.row_bytes
        + (self.text - once.text.length)
        + (self.octets - once.octets.bytes.length)
    )


cdef bint repeated_is_worth_runs(Repeated* self) noexcept nogil:
    """Whether a compressor is told by runs what repeats itself."""
    cdef Run* runs = repeated_runs(self)
    cdef size_t each, mixed = 0
    if self.rows < MIN_RUN_ATTRIBUTES or self.rows < MIN_TIMES * self.once.values.table.rows:
        return False
    for each in range(repeated_run_count(self)):
        if runs[each].is_mixed:
            mixed += runs[each].count
        elif runs[each].count * 8 > ZSTD_MAX_RUN:
            return False
        elif values_text_size(&self.once.values, runs[each].first, runs[each].count) > ZSTD_MAX_RUN:
            return False
    return self.rows >= MIN_TIMES_OF_MIXED * mixed


cdef bint repeated_spread(Repeated* self, bint wholly) noexcept nogil:
    """Write out to ``spread`` what each row has: types, ends and octets, or everything. What is there stays as it is:
    somebody may be reading it."""
    if self.spread_stage == 0:
        if not spread_shape(self, &self.once.values, &self.spread):
            return False
        self.spread_stage = 1
    if wholly and self.spread_stage == 1:
        if not spread_content(self, &self.once.values, &self.spread):
            return False
        self.spread_stage = 2
    return True


cdef bint spread_shape(Repeated* self, Values* once, Values* to) noexcept nogil:
    cdef Table* table = &to.table
    cdef int32_t* ends
    cdef int32_t* from_ends
    cdef size_t number, each, at = 0, base = 0, octets
    cdef Run run
    values_cut(to, 0)
    if not table_reserve(table, self.rows):
        return False
    ends = i32(table, VALUE_STR_END)
    for number in range(repeated_run_count(self)):
        run = repeated_runs(self)[number]
        memcpy(u8(table, VALUE_TYPE) + at, u8(&once.table, VALUE_TYPE) + run.first, run.count)
        repeat(u8(table, VALUE_TYPE) + at, run.count, run.times - 1)
        from_ends = i32(&once.table, VALUE_STR_END) + run.first
        for each in range(run.count):
            ends[at + each + 1] = <int32_t>(base + <size_t>(from_ends[each + 1] - from_ends[0]))
        repeat_offsets(ends + at, run.count, run.times - 1)
        base += values_text_size(once, run.first, run.count) * run.times
        octets = values_octets_size(once, run.first, run.count)
        if octets:
            sparse_fill(&to.octets, at)
            from_ends = i32(&once.table, VALUE_BYTES_END) + run.first
            for each in range(run.count):
                i32(table, VALUE_BYTES_END)[at + each + 1] = <int32_t>(
                    to.octets.bytes.length + <size_t>(from_ends[each + 1] - from_ends[0])
                )
            if not (
                bytes_append(&to.octets.bytes, once.octets.bytes.data + from_ends[0], octets)
                and bytes_repeat(&to.octets.bytes, octets, run.times - 1)
            ):
                return False
            repeat_offsets(i32(table, VALUE_BYTES_END) + at, run.count, run.times - 1)
            to.octets.filled = at + run.count * run.times
        at += run.count * run.times
    table.rows = at
    return True


cdef bint spread_content(Repeated* self, Values* once, Values* to) noexcept nogil:
    cdef Table* table = &to.table
    cdef size_t number, at = 0, text
    cdef Run run
    to.text.length = 0
    if not bytes_reserve(&to.text, self.text):
        return False
    for number in range(repeated_run_count(self)):
        run = repeated_runs(self)[number]
        text = values_text_size(once, run.first, run.count)
        if not (
            bytes_append(&to.text, once.text.data + i32(&once.table, VALUE_STR_END)[run.first], text)
            and bytes_repeat(&to.text, text, run.times - 1)
        ):
            return False
        spread_column(once, to, VALUE_KEY, &run, at)
        at += run.count * run.times
        if once.ints_end > run.first:
            spread_column(once, to, VALUE_INT, &run, at - run.count * run.times)
            to.ints_end = at
        if once.doubles_end > run.first:
            spread_column(once, to, VALUE_DOUBLE, &run, at - run.count * run.times)
            to.doubles_end = at
    return True


cdef void spread_column(Values* once, Values* to, int column, Run* run, size_t at) noexcept nogil:
    cdef size_t width = once.table.width[column]
    cdef uint8_t* block = to.table.column[column] + at * width
    memcpy(block, once.table.column[column] + run.first * width, run.count * width)
    repeat(block, run.count * width, run.times - 1)


cdef void repeated_clear(Repeated* self, bint idle) noexcept nogil:
    """Beside ``once``, which is cleared as all columns are."""
    cdef Values* spread = &self.spread
    cdef int each
    bytes_clear(&self.runs, idle)
    for each in range(4):
        bytes_clear(&self.told[each], idle)
    self.rows = self.text = self.octets = 0
    self.spread_stage = 0
    values_zero(spread, 0)
    table_clear(&spread.table, idle)
    bytes_clear(&spread.text, idle)
    bytes_clear(&spread.octets.bytes, idle)


cdef void repeated_free(Repeated* self) noexcept nogil:
    cdef int each
    bytes_free(&self.runs)
    for each in range(4):
        bytes_free(&self.told[each])
    table_free(&self.spread.table)
    bytes_free(&self.spread.text)
    bytes_free(&self.spread.octets.bytes)
