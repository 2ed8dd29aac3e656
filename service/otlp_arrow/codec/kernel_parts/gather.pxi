# Batches of Arrow clients into the builders: what a message holds is checked and copied in one pass, and lies then
# beside the rows of OTLP requests. Only batches as the decoder would have made them are taken: every rule of the data
# model holds, and what is null shows in the data. Any doubt ends it: nothing is kept, and
# `codec.cast` looks at the batch by Arrow's means, column by column, and has the words for a refusal.
#
# The arrays of a message come in the order of the schema, so the `gather_…` functions below are called in that order.

cdef enum:
    MAX_GATHER_BITMAPS = 6


cdef struct Dictionary:
    size_t count
    const int32_t* ends  # one more than entries
    Position text


cdef struct Gathering:
    Message message
    size_t node
    size_t buffer
    size_t rows  # of the node that was read last, its nulls and its bitmap
    size_t nulls
    Position bits
    size_t size  # of the buffer that was read last
    Dictionary** dictionaries
    size_t dictionary_count
    size_t dictionary
    uint64_t max_repeated_bytes
    Bytes* bitmaps  # scratch: MAX_GATHER_BITMAPS of them
    Bytes* bytes  # scratch: types, or the index in the builder of each entry of a dictionary
    Bytes* json  # scratch
    Bytes* block  # scratch


cdef bint gather_node(Gathering* self, size_t rows) noexcept nogil:
    """The next array, which has so many rows. Its first buffer is its bitmap."""
    cdef int64_t pair[2]
    if self.node == self.message.node_count:
        return False
    memcpy(pair, self.message.nodes + 16 * self.node, 16)
    self.node += 1
    if pair[0] != <int64_t>rows or not 0 <= pair[1] <= pair[0]:
        return False
    self.rows = rows
    self.nulls = <size_t>pair[1]
    self.bits = NULL
    if self.nulls == 0:
        self.buffer += 1
        return self.buffer <= self.message.buffer_count
    self.bits = gather_buffer(self, (rows + 7) // 8)
    return self.bits != NULL


cdef Position gather_buffer(Gathering* self, size_t size) noexcept nogil:
    """The next buffer, of at least so many bytes; NULL if it is not there."""
    cdef uint64_t pair[2]
    if self.buffer >= self.message.buffer_count:
        return NULL
    memcpy(pair, self.message.buffers + 16 * self.buffer, 16)
    self.buffer += 1
    if pair[0] > self.message.body_size or pair[1] > self.message.body_size - pair[0] or pair[1] < size:
        return NULL
    self.size = pair[1]
    return self.message.body + pair[0]


cdef inline bint gather_required(Gathering* self, size_t rows) noexcept nogil:
    return gather_node(self, rows) and self.nulls == 0


cdef uint8_t* gather_scratch(Bytes* memory, size_t size) noexcept nogil:
    memory.length = 0
    return memory.data if bytes_reserve(memory, size) else NULL


cdef uint8_t* gather_bitmap(Gathering* self, int which, size_t rows) noexcept nogil:
    return gather_scratch(&self.bitmaps[which], (rows + 7) // 8)


cdef bint same_nulls(Position given, size_t nulls, const uint8_t* derived, bint all_valid, size_t rows) noexcept nogil:
    """Whether a bitmap says what the data says."""
    cdef size_t whole = rows // 8
    if all_valid or rows == 0:
        return nulls == 0
    if given == NULL or rows - bits_count(derived, rows) != nulls or memcmp(given, derived, whole) != 0:
        return False
    return rows % 8 == 0 or ((given[whole] ^ derived[whole]) & ((1 << (rows % 8)) - 1)) == 0


# -- numbers, times, ids ---------------------------------------------------------------------------

cdef bint gather_values(Gathering* self, Table* table, int column, size_t first, size_t rows) noexcept nogil:
    """The values of the array whose node was read."""
    cdef size_t width = table.width[column]
    cdef Position data = gather_buffer(self, rows * width)
    if data == NULL:
        return False
    if rows:  # a table without rows may have no memory
        memcpy(table.column[column] + first * width, data, rows * width)
    return True


cdef bint gather_fixed(Gathering* self, Table* table, int column, size_t first, size_t rows) noexcept nogil:
    """Numbers that are never null."""
    return gather_required(self, rows) and gather_values(self, table, column, first, rows)


cdef bint gather_id(
    Gathering* self, Table* table, int column, size_t first, size_t rows, bint required
) noexcept nogil:
    """Ids of eight or sixteen bytes: zero where they are null and nowhere else."""
    cdef uint8_t* bits = gather_bitmap(self, 0, rows)
    cdef const uint64_t* data
    cdef bint all_valid
    if bits == NULL or not gather_node(self, rows) or not gather_values(self, table, column, first, rows):
        return False
    if table.width[column] == 16:
        data = <const uint64_t*>table.column[column] + 2 * first
        all_valid = bits_where_not_zero_pair(data, rows, bits)
    else:
        data = <const uint64_t*>table.column[column] + first
        all_valid = bits_where_not_zero(data, rows, bits)
    return (all_valid or not required) and same_nulls(self.bits, self.nulls, bits, all_valid, rows)


cdef bint gather_time(Gathering* self, Table* table, int column, size_t first, size_t rows) noexcept nogil:
    """Times: zero where they are null and nowhere else, and not before 1970."""
    cdef uint64_t all_bits = 0
    cdef size_t row
    cdef const uint64_t* data
    if not gather_id(self, table, column, first, rows, False):
        return False
    data = <const uint64_t*>table.column[column] + first
    for row in range(rows):
        all_bits |= data[row]
    return <int64_t>all_bits >= 0


# -- text ------------------------------------------------------------------------------------------

cdef bint gather_ends(
    Gathering* self, Table* table, int column, size_t first, size_t rows, size_t base, size_t* total
) noexcept nogil:
    """The ends of the texts or lists of the array whose node was read, moved by ``base``; their sum."""
    cdef int32_t* ends = i32(table, column) + first + 1
    cdef bint falls = False
    cdef uint32_t further = <uint32_t>base
    cdef size_t row
    cdef Position data
    total[0] = 0
    data = gather_buffer(self, (rows + 1) * 4 if rows else 0)
    if rows == 0:  # one offset, or none
        return data != NULL and (self.size == 0 or (self.size >= 4 and load32(data) == 0))
    if data == NULL or load32(data) != 0:
        return False
    memcpy(ends, data + 4, rows * 4)
    for row in range(1, rows):
        falls |= ends[row] < ends[row - 1]
    if falls or ends[0] < 0:
        return False
    total[0] = <size_t>ends[rows - 1]
    if total[0] + base > table.bounds.max_offset:
        return False
    if further:
        for row in range(rows):
            ends[row] = <int32_t>(<uint32_t>ends[row] + further)
    return True


cdef bint gather_text(
    Gathering* self, Table* table, int column, size_t first, size_t rows, Bytes* text, bint is_text
) noexcept nogil:
    """The strings, or with ``is_text`` unset the bytes, of the array whose node was read."""
    cdef size_t total = 0, base = text.length, row
    cdef int32_t* ends = i32(table, column) + first
    cdef Position data
    if not gather_ends(self, table, column, first, rows, base, &total):
        return False
    data = gather_buffer(self, total)
    if data == NULL or not bytes_append(text, data, total):
        return False
    if is_text and not is_ascii(text.data + base, total):
        for row in range(rows):
            if not is_utf8(text.data + ends[row], ends[row + 1] - ends[row]):
                return False
    return True


cdef bint gather_optional_text(Gathering* self, Sparse* sparse, size_t first, size_t rows) noexcept nogil:
    """Text that is null where it is empty and nowhere else."""
    cdef uint8_t* bits = gather_bitmap(self, 0, rows)
    cdef bint all_valid
    sparse_fill(sparse, first)
    if bits == NULL or not gather_node(self, rows):
        return False
    sparse.filled = first + rows  # beforehand: what is undone is cut from here
    if not gather_text(self, sparse.table, sparse.column, first, rows, &sparse.bytes, True):
        return False
    all_valid = bits_where_not_empty(i32(sparse.table, sparse.column) + first, rows, bits)
    return same_nulls(self.bits, self.nulls, bits, all_valid, rows)


cdef bint gather_keywords(
    Gathering* self, Table* table, int column, size_t first, size_t rows, Keywords* words, bint optional
) noexcept nogil:
    """Indices into a dictionary of the stream become such into the builder's."""
    cdef int32_t* indices = i32(table, column) + first
    cdef Dictionary* dictionary
    cdef int32_t* known
    cdef int32_t entry
    cdef uint32_t index
    cdef size_t row
    if not gather_node(self, rows) or (self.nulls and not optional):
        return False
    if not gather_values(self, table, column, first, rows) or self.dictionary == self.dictionary_count:
        return False
    dictionary = self.dictionaries[self.dictionary]
    self.dictionary += 1
    if <uint64_t>dictionary.ends[dictionary.count] * rows > self.max_repeated_bytes:
        return False  # one huge string and a million indices are small until somebody writes them out
    known = <int32_t*>gather_scratch(self.bytes, dictionary.count * 4)
    if known == NULL:
        return False
    memset(known, 0xFF, dictionary.count * 4)
    for row in range(rows):
        if self.nulls and not (self.bits[row >> 3] >> (row & 7)) & 1:
            indices[row] = NO_KEYWORD
            continue
        index = <uint32_t>indices[row]
        if index >= dictionary.count:
            return False
        entry = known[index]
        if unlikely(entry == NO_KEYWORD):
            entry = keyword(
                words,
                words.last,
                dictionary.text + dictionary.ends[index],
                dictionary.ends[index + 1] - dictionary.ends[index],
                dictionary.text + dictionary.ends[dictionary.count],
            )
            if entry == NO_KEYWORD:
                return False
            known[index] = words.last = entry
        indices[row] = entry
    return not self.nulls or rows - bits_count(self.bits, rows) == self.nulls


# -- lists -----------------------------------------------------------------------------------------

cdef bint gather_list(
    Gathering* self, Table* table, int column, size_t first, size_t rows, Table* members, size_t* count
) noexcept nogil:
    """The ends of lists or maps that are never null, and room for their members."""
    return (
        gather_required(self, rows)
        and gather_ends(self, table, column, first, rows, members.rows, count)
        and table_reserve(members, count[0])
    )


cdef bint gather_words(
    Gathering* self, Table* table, int column, size_t first, size_t rows, Words* words
) noexcept nogil:
    cdef size_t count = 0
    if not gather_list(self, table, column, first, rows, &words.table, &count) or not gather_required(self, count):
        return False
    if not gather_text(self, &words.table, 0, words.table.rows, count, &words.text, True):
        return False
    words.table.rows += count
    return True


# -- attribute values ------------------------------------------------------------------------------

cdef bint gather_value_column(
    Gathering* self, Values* values, int column, size_t* end, size_t first, size_t rows, const uint8_t* bits, bint all_valid
) noexcept nogil:
    """The ints or doubles; where there are none the column stays as it is, zero."""
    if not gather_node(self, rows) or not same_nulls(self.bits, self.nulls, bits, all_valid, rows):
        return False
    if self.nulls == rows:
        return gather_buffer(self, rows * 8) != NULL
    if not gather_values(self, &values.table, column, first, rows):
        return False
    end[0] = first + rows
    return True


cdef bint gather_octets(
    Gathering* self, Values* values, size_t first, size_t rows, const uint8_t* bits, bint all_valid
) noexcept nogil:
    cdef Position data
    if not gather_node(self, rows) or not same_nulls(self.bits, self.nulls, bits, all_valid, rows):
        return False
    if self.nulls == rows and self.buffer < self.message.buffer_count:
        # Nearly always: nothing, and offsets that are all zero. They need not be written.
        data = gather_buffer(self, (rows + 1) * 4 if rows else 0)
        if data != NULL and (
            self.size == 0 or (self.size >= 4 and load32(data) == 0 and memcmp(data, data + 4, rows * 4) == 0)
        ):
            return gather_buffer(self, 0) != NULL
        self.buffer -= 1
    sparse_fill(&values.octets, first)
    values.octets.filled = first + rows
    return gather_text(self, &values.table, VALUE_BYTES_END, first, rows, &values.octets.bytes, False)


cdef bint gather_truths(
    Gathering* self, uint8_t* types, size_t rows, const uint8_t* bits, bint all_valid
) noexcept nogil:
    cdef Position truths
    cdef size_t row
    if not gather_node(self, rows) or not same_nulls(self.bits, self.nulls, bits, all_valid, rows):
        return False
    truths = gather_buffer(self, (rows + 7) // 8)
    if truths == NULL:
        return False
    if self.nulls == rows:
        return True
    for row in range(rows):
        if types[row] == BOOL and (truths[row >> 3] >> (row & 7)) & 1:
            types[row] = TRUE
    return True


cdef bint gather_any_values(Gathering* self, Values* values, size_t first, size_t rows) noexcept nogil:
    """Values, at the end of their table, which has the room; ``table.rows`` is the caller's."""
    cdef Table* table = &values.table
    cdef uint8_t* types = u8(table, VALUE_TYPE) + first
    cdef uint8_t* plain = NULL
    cdef uint8_t* bits[6]
    cdef int all_set, each
    cdef uint8_t above = 0
    cdef size_t row
    if not gather_required(self, rows) or not gather_fixed(self, table, VALUE_TYPE, first, rows):
        return False
    for row in range(rows):
        above |= types[row]
    if above > BYTES:
        return False
    plain = gather_scratch(self.bytes, rows)
    if plain == NULL:
        return False
    for each in range(VALUE_BITMAPS):
        bits[each] = gather_bitmap(self, each, rows)
        if bits[each] == NULL:
            return False
    all_set = bits_of_types(types, rows, plain, bits)
    if not gather_node(self, rows) or not same_nulls(
        self.bits, self.nulls, bits[BITS_STR], all_set >> BITS_STR & 1, rows
    ):
        return False
    return (
        gather_text(self, table, VALUE_STR_END, first, rows, &values.text, True)
        and (above < MAP or gather_lists_are_sound(self, values, first, rows))
        and gather_value_column(
            self, values, VALUE_INT, &values.ints_end, first, rows, bits[BITS_INT], all_set >> BITS_INT & 1
        )
        and gather_value_column(
            self, values, VALUE_DOUBLE, &values.doubles_end, first, rows, bits[BITS_DOUBLE], all_set >> BITS_DOUBLE & 1
        )
        and gather_truths(self, types, rows, bits[BITS_BOOL], all_set >> BITS_BOOL & 1)
        and gather_octets(self, values, first, rows, bits[BITS_BYTES], all_set >> BITS_BYTES & 1)
    )


cdef bint gather_lists_are_sound(Gathering* self, Values* values, size_t first, size_t rows) noexcept nogil:
    """Whether the texts of lists and maps can be read back. A resource has the same one on every row."""
    cdef uint8_t* types = u8(&values.table, VALUE_TYPE)
    cdef int32_t* ends = i32(&values.table, VALUE_STR_END)
    cdef Position text
    cdef Position known = NULL
    cdef size_t row, length, known_length = 0
    cdef uint8_t known_type = 0
    for row in range(first, first + rows):
        if types[row] != MAP and types[row] != SLICE:
            continue
        text = values.text.data + ends[row]
        length = ends[row + 1] - ends[row]
        if known_type == types[row] and known_length == length and memcmp(text, known, length) == 0:
            continue
        self.json.length = 0
        if not json_to_value(self.json, text, text + length, types[row]):
            return False
        known = text
        known_length = length
        known_type = types[row]
    return True


cdef bint gather_attributes(
    Gathering* self, Table* table, int column, size_t first, size_t rows, Attributes* attributes
) noexcept nogil:
    cdef Table* members = &attributes.values.table
    cdef size_t at = members.rows
    cdef size_t count = 0
    return (
        gather_required(self, rows)
        and gather_ends(self, table, column, first, rows, at, &count)
        and gather_members(self, members, at, count, attributes)
    )


cdef bint gather_members(
    Gathering* self, Table* members, size_t at, size_t count, Attributes* attributes
) noexcept nogil:
    if not (
        table_reserve(members, count)
        and gather_required(self, count)  # the entries
        and gather_keywords(self, members, VALUE_KEY, at, count, &attributes.keys, False)
        and gather_any_values(self, &attributes.values, at, count)
    ):
        return False
    members.rows += count
    return True


# -- what all signals have -------------------------------------------------------------------------

cdef bint gather_repeated(
    Gathering* self, Table* table, int column, size_t first, size_t rows, Repeated* to
) noexcept nogil:
    """Attributes that rows after rows are likely to have alike: those of one are checked and kept, the others
    compared with them."""
    cdef Table* members = &to.once.values.table
    cdef Gathering after = self[0]
    cdef Gathering block
    cdef size_t times[MAX_LIKENESSES]
    cdef size_t at = members.rows
    cdef size_t count = 0, row = 0, number, runs
    cdef MembersView view
    runs = view_likenesses(&view, rows, times) if view_members(&view, &after, rows) else 0
    if runs == 0:
        return (
            gather_required(self, rows)
            and gather_ends(self, table, column, first, rows, to.rows, &count)
            and gather_members(self, members, at, count, &to.once)
            and repeated_add(to, at, 1, rows > 1)
        )
    for number in range(runs):
        at = members.rows
        count = load32(view.ends + 4 * (row + 1)) - load32(view.ends + 4 * row)
        fill_ends(table, column, first + row, times[number], to.rows, count)
        if count > 0:
            if not view_block(&view, row, count, self, &block) or not gather_members(&block, members, at, count, &to.once):
                return False
            if not repeated_add(to, at, times[number], False):
                return False
        row += times[number]
    self.node = after.node
    self.buffer = after.buffer
    self.dictionary += 1
    return True


cdef bint gather_entities(Gathering* self, Columns* columns, size_t first, size_t rows) noexcept nogil:
    cdef Table* entities = &columns.entities
    cdef size_t at = entities.rows
    cdef size_t count = 0
    if not (
        gather_list(self, &columns.records, ENTITIES_END, first, rows, entities, &count)
        and gather_required(self, count)
        and gather_required(self, count)
        and gather_text(self, entities, ENTITY_URL_END, at, count, &columns.entity_urls, True)
        and gather_required(self, count)
        and gather_text(self, entities, ENTITY_TYPE_END, at, count, &columns.entity_types, True)
        and gather_words(self, entities, ENTITY_ID_KEYS_END, at, count, &columns.entity_id_keys)
        and gather_words(self, entities, ENTITY_DESCRIPTION_KEYS_END, at, count, &columns.entity_description_keys)
    ):
        return False
    entities.rows += count
    return True


cdef bint gather_origin(Gathering* self, Columns* columns, size_t first, size_t rows) noexcept nogil:
    cdef Table* records = &columns.records
    return (
        gather_keywords(self, records, SERVICE, first, rows, &columns.services, True)
        and gather_repeated(self, records, RESOURCE_ATTRIBUTES_END, first, rows, &columns.resource_attributes)
        and gather_fixed(self, records, RESOURCE_DROPPED, first, rows)
        and gather_keywords(self, records, RESOURCE_URL, first, rows, &columns.resource_urls, False)
        and gather_entities(self, columns, first, rows)
        and gather_keywords(self, records, SCOPE_NAME, first, rows, &columns.scope_names, False)
        and gather_keywords(self, records, SCOPE_VERSION, first, rows, &columns.scope_versions, False)
        and gather_repeated(self, records, SCOPE_ATTRIBUTES_END, first, rows, &columns.scope_attributes)
        and gather_fixed(self, records, SCOPE_DROPPED, first, rows)
        and gather_keywords(self, records, SCOPE_URL, first, rows, &columns.scope_urls, False)
    )


# -- spans -----------------------------------------------------------------------------------------

cdef bint gather_events(Gathering* self, Traces* traces, size_t first, size_t rows) noexcept nogil:
    cdef Table* events = &traces.events
    cdef size_t at = events.rows
    cdef size_t count = 0
    if not (
        gather_list(self, &traces.shared.records, SPAN_EVENTS_END, first, rows, events, &count)
        and gather_required(self, count)
        and gather_time(self, events, EVENT_TIME, at, count)
        and gather_keywords(self, events, EVENT_NAME, at, count, &traces.event_names, False)
        and gather_attributes(self, events, EVENT_ATTRIBUTES_END, at, count, &traces.event_attributes)
        and gather_fixed(self, events, EVENT_DROPPED_ATTRIBUTES, at, count)
    ):
        return False
    events.rows += count
    return True


cdef bint gather_links(Gathering* self, Traces* traces, size_t first, size_t rows) noexcept nogil:
    cdef Table* links = &traces.links
    cdef size_t at = links.rows
    cdef size_t count = 0
    if not (
        gather_list(self, &traces.shared.records, SPAN_LINKS_END, first, rows, links, &count)
        and gather_required(self, count)
        and gather_id(self, links, LINK_TRACE_ID, at, count, False)
        and gather_id(self, links, LINK_SPAN_ID, at, count, False)
        and gather_optional_text(self, &traces.link_trace_states, at, count)
        and gather_fixed(self, links, LINK_FLAGS, at, count)
        and gather_attributes(self, links, LINK_ATTRIBUTES_END, at, count, &traces.link_attributes)
        and gather_fixed(self, links, LINK_DROPPED_ATTRIBUTES, at, count)
    ):
        return False
    links.rows += count
    return True


cdef bint gather_spans(Gathering* self, void* columns, size_t first, size_t rows) noexcept nogil:
    cdef Traces* traces = <Traces*>columns
    cdef Table* spans = &traces.shared.records
    return (
        gather_id(self, spans, SPAN_TRACE_ID, first, rows, True)
        and gather_id(self, spans, SPAN_ID, first, rows, True)
        and gather_id(self, spans, SPAN_PARENT_ID, first, rows, False)
        and gather_keywords(self, spans, SPAN_NAME, first, rows, &traces.names, False)
        and gather_fixed(self, spans, SPAN_KIND, first, rows)
        and gather_time(self, spans, SPAN_START, first, rows)
        and gather_time(self, spans, SPAN_END, first, rows)
        and gather_fixed(self, spans, SPAN_STATUS_CODE, first, rows)
        and gather_optional_text(self, &traces.status_messages, first, rows)
        and gather_attributes(self, spans, SPAN_ATTRIBUTES_END, first, rows, &traces.attributes)
        and gather_fixed(self, spans, SPAN_DROPPED_ATTRIBUTES, first, rows)
        and gather_optional_text(self, &traces.trace_states, first, rows)
        and gather_fixed(self, spans, SPAN_FLAGS, first, rows)
        and gather_events(self, traces, first, rows)
        and gather_fixed(self, spans, SPAN_DROPPED_EVENTS, first, rows)
        and gather_links(self, traces, first, rows)
        and gather_fixed(self, spans, SPAN_DROPPED_LINKS, first, rows)
        and gather_origin(self, &traces.shared, first, rows)
    )


# -- log records -----------------------------------------------------------------------------------

cdef bint gather_log_records(Gathering* self, void* columns, size_t first, size_t rows) noexcept nogil:
    cdef Logs* logs = <Logs*>columns
    cdef Table* records = &logs.shared.records
    cdef size_t body = logs.bodies.table.rows
    if not (
        table_reserve(&logs.bodies.table, rows)
        and gather_time(self, records, LOG_TIME, first, rows)
        and gather_time(self, records, LOG_OBSERVED_TIME, first, rows)
        and gather_fixed(self, records, LOG_SEVERITY_NUMBER, first, rows)
        and gather_keywords(self, records, LOG_SEVERITY_TEXT, first, rows, &logs.severity_texts, False)
        and gather_any_values(self, &logs.bodies, body, rows)
    ):
        return False
    logs.bodies.table.rows += rows
    return (
        gather_attributes(self, records, LOG_ATTRIBUTES_END, first, rows, &logs.attributes)
        and gather_fixed(self, records, LOG_DROPPED_ATTRIBUTES, first, rows)
        and gather_keywords(self, records, LOG_EVENT_NAME, first, rows, &logs.event_names, False)
        and gather_fixed(self, records, LOG_FLAGS, first, rows)
        and gather_id(self, records, LOG_TRACE_ID, first, rows, False)
        and gather_id(self, records, LOG_SPAN_ID, first, rows, False)
        and gather_origin(self, &logs.shared, first, rows)
    )


# -- data points -----------------------------------------------------------------------------------

cdef bint gather_kinds(Gathering* self, Metrics* metrics, size_t first, size_t rows) noexcept nogil:
    """The kind of each point, by the name of its type."""
    cdef Table* points = &metrics.shared.records
    cdef Table* entries = &metrics.types.entries
    cdef uint8_t kinds[256]
    cdef uint8_t* kind = u8(points, POINT_KIND) + first
    cdef int32_t* indices = i32(points, METRIC_TYPE) + first
    cdef size_t row, length
    cdef int each
    cdef Position text
    if not gather_keywords(self, points, METRIC_TYPE, first, rows, &metrics.types, False) or entries.rows > 256:
        return False
    for row in range(entries.rows):
        text = metrics.types.text.data + i32(entries, KEYWORD_END)[row]
        length = i32(entries, KEYWORD_END)[row + 1] - i32(entries, KEYWORD_END)[row]
        kinds[row] = NO_KIND
        for each in range(<int>GAUGE, <int>SUMMARY + 1):
            if strlen(KIND_NAMES[each]) == length and memcmp(KIND_NAMES[each], text, length) == 0:
                kinds[row] = <uint8_t>each
    for row in range(rows):
        kind[row] = kinds[indices[row]]
        if kind[row] == NO_KIND:
            return False
    return True


cdef bint gather_flagged(
    Gathering* self, Table* table, int column, int flags, uint8_t flag, size_t first, size_t rows
) noexcept nogil:
    """A column that says by a flag where it is not null."""
    cdef uint8_t* has = u8(table, flags) + first
    cdef size_t row
    if not gather_node(self, rows):
        return False
    if self.nulls and rows - bits_count(self.bits, rows) != self.nulls:
        return False
    if not gather_values(self, table, column, first, rows):
        return False
    if rows and self.nulls == rows:
        memset(table.column[column] + first * table.width[column], 0, rows * table.width[column])
        return True
    for row in range(rows):
        if self.nulls == 0 or (self.bits[row >> 3] >> (row & 7)) & 1:
            has[row] |= flag
    return True


cdef bint gather_of_kinds(
    Gathering* self, Table* points, size_t first, size_t rows, int a, int b, int c
) noexcept nogil:
    """The node of an array that only points of some kinds have."""
    cdef uint8_t* bits = gather_bitmap(self, 0, rows)
    cdef bint all_valid
    if bits == NULL or not gather_node(self, rows):
        return False
    all_valid = bits_where_byte(u8(points, POINT_KIND) + first, rows, <uint8_t>a, <uint8_t>b, <uint8_t>c, bits)
    return same_nulls(self.bits, self.nulls, bits, all_valid, rows)


cdef bint gather_of(
    Gathering* self, Table* points, int column, size_t first, size_t rows, int a, int b, int c
) noexcept nogil:
    return gather_of_kinds(self, points, first, rows, a, b, c) and gather_values(self, points, column, first, rows)


cdef bint gather_list_of(
    Gathering* self, Table* points, int column, size_t first, size_t rows, int kind, Table* members, size_t* count
) noexcept nogil:
    """Lists that only points of one kind have; those of others are empty."""
    cdef int32_t* ends = i32(points, column) + first
    cdef uint8_t* kinds = u8(points, POINT_KIND) + first
    cdef size_t row
    if not (
        gather_of_kinds(self, points, first, rows, kind, kind, kind)
        and gather_ends(self, points, column, first, rows, members.rows, count)
        and table_reserve(members, count[0])
    ):
        return False
    for row in range(rows):
        if ends[row] != ends[row + 1] and kinds[row] != kind:
            return False
    return True


cdef bint gather_numbers(
    Gathering* self, Table* points, int column, size_t first, size_t rows, int kind, Table* numbers
) noexcept nogil:
    cdef size_t count = 0
    if not gather_list_of(self, points, column, first, rows, kind, numbers, &count):
        return False
    if not gather_fixed(self, numbers, 0, numbers.rows, count):
        return False
    numbers.rows += count
    return True


cdef bint gather_quantiles(Gathering* self, Metrics* metrics, size_t first, size_t rows) noexcept nogil:
    cdef Table* quantiles = &metrics.quantiles
    cdef Table* points = &metrics.shared.records
    cdef size_t at = quantiles.rows
    cdef size_t count = 0
    if not (
        gather_list_of(self, points, POINT_QUANTILES_END, first, rows, SUMMARY, quantiles, &count)
        and gather_required(self, count)
        and gather_fixed(self, quantiles, QUANTILE, at, count)
        and gather_fixed(self, quantiles, QUANTILE_VALUE, at, count)
    ):
        return False
    quantiles.rows += count
    return True


cdef bint gather_exemplars(Gathering* self, Metrics* metrics, size_t first, size_t rows) noexcept nogil:
    cdef Table* exemplars = &metrics.exemplars
    cdef size_t at = exemplars.rows
    cdef size_t count = 0
    if not gather_list(self, &metrics.shared.records, POINT_EXEMPLARS_END, first, rows, exemplars, &count):
        return False
    if count:
        memset(u8(exemplars, EXEMPLAR_HAS) + at, 0, count)
    if not (
        gather_required(self, count)
        and gather_time(self, exemplars, EXEMPLAR_TIME, at, count)
        and gather_flagged(self, exemplars, EXEMPLAR_INT, EXEMPLAR_HAS, HAS_INT, at, count)
        and gather_flagged(self, exemplars, EXEMPLAR_DOUBLE, EXEMPLAR_HAS, HAS_DOUBLE, at, count)
        and gather_id(self, exemplars, EXEMPLAR_TRACE_ID, at, count, False)
        and gather_id(self, exemplars, EXEMPLAR_SPAN_ID, at, count, False)
        and gather_attributes(self, exemplars, EXEMPLAR_ATTRIBUTES_END, at, count, &metrics.exemplar_attributes)
    ):
        return False
    exemplars.rows += count
    return True


cdef bint gather_monotonic(Gathering* self, Table* points, size_t first, size_t rows) noexcept nogil:
    cdef uint8_t* has = u8(points, POINT_HAS) + first
    cdef uint8_t* kinds = u8(points, POINT_KIND) + first
    cdef Position truths
    cdef size_t row
    if not gather_of_kinds(self, points, first, rows, SUM, SUM, SUM):
        return False
    truths = gather_buffer(self, (rows + 7) // 8)
    if truths == NULL:
        return False
    for row in range(rows):
        if kinds[row] == SUM and (truths[row >> 3] >> (row & 7)) & 1:
            has[row] |= HAS_MONOTONIC
    return True


cdef bint gather_points(Gathering* self, void* columns, size_t first, size_t rows) noexcept nogil:
    cdef Metrics* metrics = <Metrics*>columns
    cdef Table* points = &metrics.shared.records
    cdef int exponential = EXPONENTIAL_HISTOGRAM
    if rows:
        memset(u8(points, POINT_HAS) + first, 0, rows)
    return (
        gather_keywords(self, points, METRIC_NAME, first, rows, &metrics.names, False)
        and gather_kinds(self, metrics, first, rows)
        and gather_keywords(self, points, METRIC_DESCRIPTION, first, rows, &metrics.descriptions, False)
        and gather_keywords(self, points, METRIC_UNIT, first, rows, &metrics.units, False)
        and gather_attributes(self, points, METRIC_METADATA_END, first, rows, &metrics.metadata)
        and gather_time(self, points, POINT_START, first, rows)
        and gather_time(self, points, POINT_TIME, first, rows)
        and gather_flagged(self, points, POINT_INT, POINT_HAS, HAS_INT, first, rows)
        and gather_flagged(self, points, POINT_DOUBLE, POINT_HAS, HAS_DOUBLE, first, rows)
        and gather_attributes(self, points, POINT_ATTRIBUTES_END, first, rows, &metrics.attributes)
        and gather_fixed(self, points, POINT_FLAGS, first, rows)
        and gather_of(self, points, METRIC_TEMPORALITY, first, rows, SUM, HISTOGRAM, exponential)
        and gather_monotonic(self, points, first, rows)
        and gather_of(self, points, POINT_COUNT, first, rows, HISTOGRAM, exponential, SUMMARY)
        and gather_flagged(self, points, POINT_SUM, POINT_HAS, HAS_SUM, first, rows)
        and gather_flagged(self, points, POINT_MIN, POINT_HAS, HAS_MIN, first, rows)
        and gather_flagged(self, points, POINT_MAX, POINT_HAS, HAS_MAX, first, rows)
        and gather_numbers(self, points, POINT_BUCKETS_END, first, rows, HISTOGRAM, &metrics.buckets)
        and gather_numbers(self, points, POINT_BOUNDS_END, first, rows, HISTOGRAM, &metrics.bounds)
        and gather_of(self, points, POINT_SCALE, first, rows, exponential, exponential, exponential)
        and gather_of(self, points, POINT_ZERO_COUNT, first, rows, exponential, exponential, exponential)
        and gather_of(self, points, POINT_ZERO_THRESHOLD, first, rows, exponential, exponential, exponential)
        and gather_of(self, points, POINT_POSITIVE_OFFSET, first, rows, exponential, exponential, exponential)
        and gather_numbers(self, points, POINT_POSITIVE_END, first, rows, exponential, &metrics.positive)
        and gather_of(self, points, POINT_NEGATIVE_OFFSET, first, rows, exponential, exponential, exponential)
        and gather_numbers(self, points, POINT_NEGATIVE_END, first, rows, exponential, &metrics.negative)
        and gather_quantiles(self, metrics, first, rows)
        and gather_exemplars(self, metrics, first, rows)
        and gather_origin(self, &metrics.shared, first, rows)
    )


# -- a batch ---------------------------------------------------------------------------------------

ctypedef bint (*GatherRecords)(Gathering* self, void* columns, size_t first, size_t rows) noexcept nogil


cdef int gather_batch(Columns* columns, Gathering* self, GatherRecords gather) noexcept nogil:
    """All rows of a message, or none: a ``Status``, MALFORMED for whatever is in doubt."""
    cdef Table* records = &columns.records
    cdef size_t first = records.rows
    cdef size_t rows = <size_t>self.message.rows
    cdef Marks marks
    cdef bint fine
    columns_mark(columns, 0, &marks)
    columns.bounds.fault = NO_FAULT
    fine = holding_allowed(columns, self.message.body_size) and table_reserve(records, rows)
    if fine:
        fine = gather(self, columns, first, rows)
        fine = fine and self.node == self.message.node_count and self.buffer == self.message.buffer_count
    if fine:
        records.rows = first + rows
        return APPENDED
    columns.cut(columns, first)
    columns_forget(columns, 0, &marks)
    if columns.bounds.fault == OUT_OF_MEMORY:
        return NO_MEMORY
    return TOO_LARGE_TO_HOLD if columns.bounds.fault == FULL else MALFORMED
