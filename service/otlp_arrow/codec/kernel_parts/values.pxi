# Attribute values: AnyValue into the columns of VALUE, and lists of them with keys (ATTRIBUTES).

cdef enum ValueType:  # OTAP's numbers, as in codec/schema.py
    EMPTY = 0
    STR = 1
    INT = 2
    DOUBLE = 3
    BOOL = 4
    MAP = 5
    SLICE = 6
    BYTES = 7
    TRUE = 0x80 | BOOL  # while gathering, the type of a true value: spares a column of bits

cdef enum ValueColumn:
    VALUE_TYPE = 0
    VALUE_STR_END = 1
    VALUE_KEY = 2  # attributes only
    # Zero where nothing is written: an attribute writes its own child only, and pages of children that
    # no attribute has are never touched. The ends of bytes are filled in once there are any.
    VALUE_INT = 3
    VALUE_DOUBLE = 4
    VALUE_BYTES_END = 5
    VALUE_COLUMNS

cdef enum:
    KEY_VALUE_KEY = 1 << 3 | LEN
    KEY_VALUE_VALUE = 2 << 3 | LEN
    ANY_STRING = 1 << 3 | LEN
    ANY_BOOL = 2 << 3 | VARINT
    ANY_INT = 3 << 3 | VARINT
    ANY_DOUBLE = 4 << 3 | I64
    ANY_ARRAY = 5 << 3 | LEN
    ANY_PAIRS = 6 << 3 | LEN
    ANY_BYTES = 7 << 3 | LEN
    ANY_STRING_INDEX = 8 << 3 | VARINT  # of profiles; elsewhere treated as absent, but it takes the oneof


cdef struct Values:
    Table table
    Bytes text
    Sparse octets
    size_t ints_end  # rows from here on have no int yet; the same for doubles
    size_t doubles_end
    ZstdRun zeros[3]  # told of ints, doubles and ends of bytes


cdef void values_zero(Values* self, size_t rows) noexcept nogil:
    """What is zero where nothing is written becomes so again from ``rows`` on."""
    if self.ints_end > rows:
        memset(i64(&self.table, VALUE_INT) + rows, 0, (self.ints_end - rows) * 8)
        self.ints_end = rows
    if self.doubles_end > rows:
        memset(f64(&self.table, VALUE_DOUBLE) + rows, 0, (self.doubles_end - rows) * 8)
        self.doubles_end = rows
    if self.octets.filled > rows:
        self.octets.bytes.length = offset_at(&self.table, VALUE_BYTES_END, rows)
        memset(i32(&self.table, VALUE_BYTES_END) + rows + 1, 0, (self.octets.filled - rows) * 4)
        self.octets.filled = rows


cdef void values_cut(Values* self, size_t rows) noexcept nogil:
    values_zero(self, rows)
    self.table.rows = rows
    self.text.length = offset_at(&self.table, VALUE_STR_END, rows)


# -- one value -------------------------------------------------------------------------------------

cdef struct AnyValue:
    # What is known while its fields come in: a later member of the oneof replaces an earlier one,
    # and more of the same list adds to it.
    int type
    int64_t integer  # INT, BOOL
    double real
    Position data  # STR, BYTES: where it stands in the request
    size_t length
    size_t members  # of the list whose text is being written
    size_t start  # where that text begins


cdef inline void any_value_begin(AnyValue* self, Bytes* out) noexcept nogil:
    self.type = EMPTY
    self.start = out.length


cdef bint scan_any_value(AnyValue* self, Bytes* out, Position at, Position end, int depth) noexcept nogil:
    """The fields of an AnyValue, on top of those of its earlier occurrences.

    Lists write their text to ``out`` at once, but for the closing bracket.
    """
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef bint truth = False
    cdef int32_t ignored = 0
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == ANY_STRING:
            at = read_text(at, end, &self.data, &self.length)
            any_value_set(self, out, STR)
        elif tag == ANY_INT:
            at = read_varint(at, end, <uint64_t*>&self.integer)
            any_value_set(self, out, INT)
        elif tag == ANY_DOUBLE:
            at = read_double(at, end, &self.real)
            any_value_set(self, out, DOUBLE)
        elif tag == ANY_BOOL:
            at = read_bool(at, end, &truth)
            self.integer = truth
            any_value_set(self, out, BOOL)
        elif tag == ANY_BYTES:
            at = read_bytes(at, end, &self.data, &self.length)
            any_value_set(self, out, BYTES)
        elif tag == ANY_ARRAY or tag == ANY_PAIRS:
            at = read_length(at, end, &length)
            if at == NULL or depth == 0 or not any_value_list(self, out, SLICE if tag == ANY_ARRAY else MAP):
                return False
            if tag == ANY_ARRAY and not scan_array(self, out, at, at + length, depth - 1):
                return False
            if tag == ANY_PAIRS and not scan_key_value_list(self, out, at, at + length, depth - 1):
                return False
            at += length
        elif tag == ANY_STRING_INDEX:
            at = read_int32(at, end, &ignored)
            any_value_set(self, out, EMPTY)
        else:
            at = skip_field(at, end, tag, depth)
        if at == NULL:
            return False
    return True


cdef inline void any_value_set(AnyValue* self, Bytes* out, int type) noexcept nogil:
    self.type = type
    out.length = self.start


cdef bint any_value_list(AnyValue* self, Bytes* out, int type) noexcept nogil:
    if self.type == type:
        return True
    any_value_set(self, out, type)
    self.members = 0
    return bytes_append(out, b"[" if type == SLICE else b"{", 1)


cdef bint values_put(Values* self, size_t row, AnyValue* value) noexcept nogil:
    """Write a value to ``row``; a list's text is in ``text`` already."""
    cdef Table* table = &self.table
    cdef int type = value.type
    if type == STR:
        if not bytes_append(&self.text, value.data, value.length):
            return False
    elif type == INT:
        i64(table, VALUE_INT)[row] = value.integer
        self.ints_end = row + 1
    elif type == DOUBLE:
        f64(table, VALUE_DOUBLE)[row] = value.real
        self.doubles_end = row + 1
    elif type == BOOL:
        type = TRUE if value.integer else BOOL
    elif type == BYTES:
        if not sparse_put(&self.octets, row, value.data, value.length):
            return False
    elif type == SLICE or type == MAP:
        if not bytes_append(&self.text, b"]" if type == SLICE else b"}", 1):
            return False
    u8(table, VALUE_TYPE)[row] = <uint8_t>type
    i32(table, VALUE_STR_END)[row + 1] = <int32_t>self.text.length
    return True


# -- attributes ------------------------------------------------------------------------------------

cdef struct Attributes:
    Values values
    Keywords keys


cdef inline bint scan_attribute(
    Attributes* self, int32_t* before, Position at, Position end, int depth, Position limit
) noexcept nogil:
    """Append a KeyValue; ``before`` is the key of the record's attribute before it.

    Senders write the key, then the value, then nothing: that is read here straight into the columns.
    Whatever else a message may be is left to ``scan_any_attribute``.
    """
    cdef Values* values = &self.values
    cdef Table* table = &values.table
    cdef size_t row = table.rows
    cdef Position start = at
    cdef Position key
    cdef size_t key_length = 0
    cdef size_t length = 0
    cdef uint64_t number = 0
    cdef uint8_t* to
    cdef int type
    cdef int32_t entry
    if unlikely(not table_reserve(table, 1)):
        return False
    if unlikely(at == end or at[0] != KEY_VALUE_KEY):
        return scan_any_attribute(self, before, start, end, depth, limit)
    key = read_length(at + 1, end, &key_length)
    if unlikely(key == NULL or end - key - key_length < 4 or key[key_length] != KEY_VALUE_VALUE):
        return scan_any_attribute(self, before, start, end, depth, limit)
    at = read_length(key + key_length + 1, end, &length)
    if unlikely(at == NULL or at + length != end or length < 2):
        return scan_any_attribute(self, before, start, end, depth, limit)
    type = at[0]
    if likely(type == ANY_STRING):
        at = read_length(at + 1, end, &length)
        if unlikely(at == NULL or at + length != end):
            return scan_any_attribute(self, before, start, end, depth, limit)
        if unlikely(not bytes_reserve(&values.text, length)):
            return False
        to = values.text.data + values.text.length
        if likely(length <= SHORT_BYTES and limit - at >= SHORT_BYTES):
            if unlikely(not short_copy_ascii(to, at, length) and not is_utf8(at, length)):
                return False
        else:
            if unlikely(not copy_ascii(to, at, length) and not is_utf8(at, length)):
                return False
        values.text.length += length
        type = STR
    elif type == ANY_INT:
        if unlikely(read_varint(at + 1, end, &number) != end):
            return scan_any_attribute(self, before, start, end, depth, limit)
        i64(table, VALUE_INT)[row] = <int64_t>number
        values.ints_end = row + 1
        type = INT
    elif type == ANY_DOUBLE and length == 9:
        memcpy(f64(table, VALUE_DOUBLE) + row, at + 1, 8)
        values.doubles_end = row + 1
        type = DOUBLE
    elif type == ANY_BOOL and length == 2 and at[1] <= 1:
        type = TRUE if at[1] else BOOL
    else:
        return scan_any_attribute(self, before, start, end, depth, limit)
    entry = keyword(&self.keys, before[0], key, key_length, limit)
    before[0] = entry
    u8(table, VALUE_TYPE)[row] = <uint8_t>type
    i32(table, VALUE_STR_END)[row + 1] = <int32_t>values.text.length
    i32(table, VALUE_KEY)[row] = entry
    table.rows = row + 1
    return likely(entry != NO_KEYWORD)


cdef bint scan_any_attribute(
    Attributes* self, int32_t* before, Position at, Position end, int depth, Position limit
) noexcept nogil:
    """The same for a KeyValue whose fields may be missing, repeated, unknown and in any order."""
    cdef Values* values = &self.values
    cdef size_t row = values.table.rows
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef Position key = at
    cdef size_t key_length = 0
    cdef int32_t ignored = 0
    cdef AnyValue value
    any_value_begin(&value, &values.text)
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == KEY_VALUE_KEY:
            at = read_text(at, end, &key, &key_length)
        elif tag == KEY_VALUE_VALUE:
            at = read_length(at, end, &length)
            if at == NULL or depth == 0 or not scan_any_value(&value, &values.text, at, at + length, depth - 1):
                return False
            at += length
        else:
            at = skip_field(at, end, tag, depth)
        if at == NULL:
            return False
    if not values_put(values, row, &value):
        return False
    before[0] = keyword(&self.keys, before[0], key, key_length, limit)
    i32(&values.table, VALUE_KEY)[row] = before[0]
    values.table.rows += 1
    return before[0] != NO_KEYWORD


cdef void attributes_cut(Attributes* self, size_t rows) noexcept nogil:
    values_cut(&self.values, rows)


cdef bint attributes_repeat(Attributes* self, size_t count, size_t times) noexcept nogil:
    """Append the last ``count`` attributes ``times`` times more."""
    cdef Values* values = &self.values
    cdef Table* table = &values.table
    cdef size_t first = table.rows - count
    cdef size_t text_size, octets_size
    if count == 0 or times == 0:
        return True
    if <uint64_t>count * times > table.bounds.max_offset:
        table.bounds.fault = FULL
        return False
    if not table_reserve(table, count * times):
        return False
    text_size = values.text.length - i32(table, VALUE_STR_END)[first]
    if not bytes_repeat(&values.text, text_size, times):
        return False
    repeat_offsets(i32(table, VALUE_STR_END) + first, count, times)
    if values.octets.filled > first:
        sparse_fill(&values.octets, table.rows)
        octets_size = values.octets.bytes.length - i32(table, VALUE_BYTES_END)[first]
        if not bytes_repeat(&values.octets.bytes, octets_size, times):
            return False
        repeat_offsets(i32(table, VALUE_BYTES_END) + first, count, times)
        values.octets.filled = table.rows + count * times
    repeat(u8(table, VALUE_TYPE) + first, count, times)
    repeat(<uint8_t*>(i32(table, VALUE_KEY) + first), count * 4, times)
    if values.ints_end > first:
        repeat(<uint8_t*>(i64(table, VALUE_INT) + first), count * 8, times)
        values.ints_end = table.rows + count * times
    if values.doubles_end > first:
        repeat(<uint8_t*>(f64(table, VALUE_DOUBLE) + first), count * 8, times)
        values.doubles_end = table.rows + count * times
    table.rows += count * times
    return True
