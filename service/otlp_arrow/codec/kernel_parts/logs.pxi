# Log records.

cdef enum LogColumn:
    LOG_TIME = ORIGIN_COLUMNS
    LOG_OBSERVED_TIME
    LOG_SEVERITY_NUMBER
    LOG_SEVERITY_TEXT
    LOG_ATTRIBUTES_END
    LOG_DROPPED_ATTRIBUTES
    LOG_EVENT_NAME
    LOG_FLAGS
    LOG_TRACE_ID
    LOG_SPAN_ID
    LOG_COLUMNS

cdef enum LogTag:
    LOG_TAG_TIME = 1 << 3 | I64
    LOG_TAG_SEVERITY_NUMBER = 2 << 3 | VARINT
    LOG_TAG_SEVERITY_TEXT = 3 << 3 | LEN
    LOG_TAG_BODY = 5 << 3 | LEN
    LOG_TAG_ATTRIBUTES = 6 << 3 | LEN
    LOG_TAG_DROPPED_ATTRIBUTES = 7 << 3 | VARINT
    LOG_TAG_FLAGS = 8 << 3 | I32
    LOG_TAG_TRACE_ID = 9 << 3 | LEN
    LOG_TAG_SPAN_ID = 10 << 3 | LEN
    LOG_TAG_OBSERVED_TIME = 11 << 3 | I64
    LOG_TAG_EVENT_NAME = 12 << 3 | LEN


cdef struct Logs:
    Columns shared
    Keywords severity_texts
    Values bodies  # a row a record
    Attributes attributes
    Keywords event_names


cdef bint scan_log_record(void* columns, Scan* scan, Position at, Position end) noexcept nogil:
    cdef Logs* self = <Logs*>columns
    cdef Table* table = &self.shared.records
    cdef size_t row = table.rows
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef int32_t before = NO_KEYWORD
    cdef Verdict verdict
    cdef Marks marks
    cdef AnyValue body
    cdef Id severity_text, event_name, trace_id, span_id
    cdef uint64_t time = 0
    cdef uint64_t observed_time = 0
    cdef int32_t severity_number = 0
    cdef int32_t dropped = 0
    cdef uint32_t flags = 0
    if not table_reserve(table, 1) or not table_reserve(&self.bodies.table, 1):
        return False
    columns_mark(&self.shared, self.shared.indexed_shared, &marks)
    any_value_begin(&body, &self.bodies.text)
    severity_text = Id(at, 0)
    event_name = Id(at, 0)
    trace_id = Id(at, 0)
    span_id = Id(at, 0)
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == LOG_TAG_ATTRIBUTES:
            at = read_length(at, end, &length)
            if at == NULL or not scan_attribute(
                &self.attributes, &before, at, at + length, RECORD_DEPTH - 1, scan.limit
            ):
                return False
            at += length
        elif tag == LOG_TAG_TIME:
            at = read_fixed64(at, end, &time)
        elif tag == LOG_TAG_SEVERITY_NUMBER:
            at = read_int32(at, end, &severity_number)
        elif tag == LOG_TAG_SEVERITY_TEXT:
            at = read_text(at, end, &severity_text.data, &severity_text.length)
        elif tag == LOG_TAG_BODY:
            at = read_length(at, end, &length)
            if at == NULL or not scan_any_value(&body, &self.bodies.text, at, at + length, RECORD_DEPTH - 1):
                return False
            at += length
        elif tag == LOG_TAG_DROPPED_ATTRIBUTES:
            at = read_int32(at, end, &dropped)
        elif tag == LOG_TAG_FLAGS:
            at = read_fixed32(at, end, &flags)
        elif tag == LOG_TAG_TRACE_ID:
            at = read_bytes(at, end, &trace_id.data, &trace_id.length)
        elif tag == LOG_TAG_SPAN_ID:
            at = read_bytes(at, end, &span_id.data, &span_id.length)
        elif tag == LOG_TAG_OBSERVED_TIME:
            at = read_fixed64(at, end, &observed_time)
        elif tag == LOG_TAG_EVENT_NAME:
            at = read_text(at, end, &event_name.data, &event_name.length)
        else:
            at = skip_field(at, end, tag, RECORD_DEPTH)
        if at == NULL:
            return False
    verdict = passed()
    if unlikely(too_late(time)):
        fail(&verdict, CHECK_TIME, 0, 0)
    if unlikely(too_late(observed_time)):
        fail(&verdict, CHECK_OBSERVED_TIME, 0, 0)
    if unlikely(trace_id.length != 16 and trace_id.length != 0):
        fail(&verdict, CHECK_LOG_TRACE_ID_LENGTH, trace_id.length, 0)
    if unlikely(span_id.length != 8 and span_id.length != 0):
        fail(&verdict, CHECK_LOG_SPAN_ID_LENGTH, span_id.length, 0)
    if unlikely(verdict.check != PASSED):
        reject(scan, verdict.check, verdict.length, 0)
        logs_cut_members(self, row)
        columns_forget(&self.shared, self.shared.indexed_shared, &marks)
        scan.records += 1
        return True
    if not (
        values_put(&self.bodies, row, &body)
        and keyword_put(
            &self.severity_texts,
            i32(table, LOG_SEVERITY_TEXT),
            row,
            severity_text.data,
            severity_text.length,
            scan.limit,
        )
        and keyword_put(
            &self.event_names, i32(table, LOG_EVENT_NAME), row, event_name.data, event_name.length, scan.limit
        )
    ):
        return False
    i64(table, LOG_TIME)[row] = <int64_t>time
    i64(table, LOG_OBSERVED_TIME)[row] = <int64_t>observed_time
    i32(table, LOG_SEVERITY_NUMBER)[row] = severity_number
    i32(table, LOG_ATTRIBUTES_END)[row + 1] = <int32_t>self.attributes.values.table.rows
    i32(table, LOG_DROPPED_ATTRIBUTES)[row] = dropped
    i32(table, LOG_FLAGS)[row] = <int32_t>flags
    store_id(u8(table, LOG_TRACE_ID) + 16 * row, &trace_id, 16)
    store_id(u8(table, LOG_SPAN_ID) + 8 * row, &span_id, 8)
    table.rows = row + 1
    self.bodies.table.rows = row + 1
    scan.records += 1
    return True


cdef void logs_cut_members(Logs* self, size_t row) noexcept nogil:
    values_cut(&self.bodies, row)
    attributes_cut(&self.attributes, offset_at(&self.shared.records, LOG_ATTRIBUTES_END, row))


cdef void logs_cut(void* columns, size_t rows) noexcept nogil:
    cdef Logs* self = <Logs*>columns
    logs_cut_members(self, rows)
    columns_cut_shared(&self.shared, rows)


cdef void logs_begin(Logs* self) noexcept nogil:
    cdef Columns* shared = &self.shared
    columns_begin(shared)
    shared.scan_record = scan_log_record
    shared.cut = logs_cut
    add_table(shared, &shared.records, LOG_COLUMNS)
    table_width(&shared.records, LOG_TIME, 8)
    table_width(&shared.records, LOG_OBSERVED_TIME, 8)
    table_width(&shared.records, LOG_TRACE_ID, 16)
    table_width(&shared.records, LOG_SPAN_ID, 8)
    add_keywords(shared, &self.severity_texts, &shared.records, LOG_SEVERITY_TEXT)
    add_values(shared, &self.bodies)
    add_attributes(shared, &self.attributes)
    add_keywords(shared, &self.event_names, &shared.records, LOG_EVENT_NAME)
