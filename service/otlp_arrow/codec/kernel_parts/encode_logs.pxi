# Log records, from rows to bytes.

cdef struct LogsView:
    View time
    View observed_time
    View severity_number
    KeywordView severity_text
    ValuesView body
    AttributesView attributes
    View dropped_attributes
    KeywordView event_name
    View flags
    View trace_id
    View span_id


cdef bint see_logs(LogsView* self, ArrowArray** columns) noexcept nogil:
    cdef Extent rows = whole(columns[0])
    return (
        see(&self.time, columns[0], rows, NULLABLE)
        and see(&self.observed_time, columns[1], rows, NULLABLE)
        and see(&self.severity_number, columns[2], rows, REQUIRED)
        and see_keyword(&self.severity_text, columns[3], rows)
        and see_values(&self.body, columns[4], rows)
        and see_attributes(&self.attributes, columns[5], rows)
        and see(&self.dropped_attributes, columns[6], rows, REQUIRED)
        and see_keyword(&self.event_name, columns[7], rows)
        and see(&self.flags, columns[8], rows, REQUIRED)
        and see(&self.trace_id, columns[9], rows, NULLABLE)
        and see(&self.span_id, columns[10], rows, NULLABLE)
    )


cdef bint write_log_record(Encoding* encoding, size_t row) noexcept nogil:
    cdef LogsView* logs = <LogsView*>encoding.columns
    cdef Writer* out = &encoding.out
    return (
        put_keyword(out, LOG_TAG_EVENT_NAME, &logs.event_name, row)
        and put_time(out, LOG_TAG_OBSERVED_TIME, &logs.observed_time, row)
        and put_id_if(out, LOG_TAG_SPAN_ID, &logs.span_id, row, 8)
        and put_id_if(out, LOG_TAG_TRACE_ID, &logs.trace_id, row, 16)
        and put_fixed32_if(out, LOG_TAG_FLAGS, <uint32_t>view32(&logs.flags, row))
        and put_uint32(out, LOG_TAG_DROPPED_ATTRIBUTES, &logs.dropped_attributes, row)
        and put_attributes(out, &logs.attributes, row, LOG_TAG_ATTRIBUTES, &encoding.scratch)
        and put_body(encoding, logs, row)
        and put_keyword(out, LOG_TAG_SEVERITY_TEXT, &logs.severity_text, row)
        and put_signed(out, LOG_TAG_SEVERITY_NUMBER, view32(&logs.severity_number, row))
        and put_time(out, LOG_TAG_TIME, &logs.time, row)
    )


cdef inline bint put_body(Encoding* encoding, LogsView* logs, size_t row) noexcept nogil:
    cdef size_t end = writer_size(&encoding.out)
    return put_value(&encoding.out, &logs.body, row, &encoding.scratch) and put_end(
        &encoding.out, LOG_TAG_BODY, end
    )
