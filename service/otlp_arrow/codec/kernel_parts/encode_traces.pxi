# Spans, from rows to bytes.

cdef struct TracesView:
    View trace_id
    View span_id
    View parent_span_id
    KeywordView name
    View kind
    View start
    View end
    View status_code
    View status_message
    AttributesView attributes
    View dropped_attributes
    View trace_state
    View flags
    View events
    View event_time
    KeywordView event_name
    AttributesView event_attributes
    View event_dropped_attributes
    View dropped_events
    View links
    View link_trace_id
    View link_span_id
    View link_trace_state
    View link_flags
    AttributesView link_attributes
    View link_dropped_attributes
    View dropped_links


cdef bint see_traces(TracesView* self, ArrowArray** columns) noexcept nogil:
    cdef ArrowArray* events = columns[13].children[0]
    cdef ArrowArray* links = columns[15].children[0]
    cdef Extent rows = whole(columns[0])
    cdef Extent inside
    return (
        see(&self.trace_id, columns[0], rows, NULLABLE)
        and see(&self.span_id, columns[1], rows, NULLABLE)
        and see(&self.parent_span_id, columns[2], rows, NULLABLE)
        and see_keyword(&self.name, columns[3], rows)
        and see(&self.kind, columns[4], rows, REQUIRED)
        and see(&self.start, columns[5], rows, NULLABLE)
        and see(&self.end, columns[6], rows, NULLABLE)
        and see(&self.status_code, columns[7], rows, REQUIRED)
        and see_text(&self.status_message, columns[8], rows, NULLABLE)
        and see_attributes(&self.attributes, columns[9], rows)
        and see(&self.dropped_attributes, columns[10], rows, REQUIRED)
        and see_text(&self.trace_state, columns[11], rows, NULLABLE)
        and see(&self.flags, columns[12], rows, REQUIRED)
        and see(&self.events, columns[13], rows, REQUIRED)
        and see(&self.dropped_events, columns[14], rows, REQUIRED)
        and see(&self.links, columns[15], rows, REQUIRED)
        and see(&self.dropped_links, columns[16], rows, REQUIRED)
        and see_struct(events, whole(events), &inside)
        and see(&self.event_time, events.children[0], inside, NULLABLE)
        and see_keyword(&self.event_name, events.children[1], inside)
        and see_attributes(&self.event_attributes, events.children[2], inside)
        and see(&self.event_dropped_attributes, events.children[3], inside, REQUIRED)
        and see_struct(links, whole(links), &inside)
        and see(&self.link_trace_id, links.children[0], inside, NULLABLE)
        and see(&self.link_span_id, links.children[1], inside, NULLABLE)
        and see_text(&self.link_trace_state, links.children[2], inside, NULLABLE)
        and see(&self.link_flags, links.children[3], inside, REQUIRED)
        and see_attributes(&self.link_attributes, links.children[4], inside)
        and see(&self.link_dropped_attributes, links.children[5], inside, REQUIRED)
    )


cdef bint write_span(Encoding* encoding, size_t row) noexcept nogil:
    cdef TracesView* spans = <TracesView*>encoding.columns
    cdef Writer* out = &encoding.out
    return (
        put_fixed32_if(out, SPAN_TAG_FLAGS, <uint32_t>view32(&spans.flags, row))
        and put_status(out, spans, row)
        and put_uint32(out, SPAN_TAG_DROPPED_LINKS, &spans.dropped_links, row)
        and put_links(encoding, spans, row)
        and put_uint32(out, SPAN_TAG_DROPPED_EVENTS, &spans.dropped_events, row)
        and put_events(encoding, spans, row)
        and put_uint32(out, SPAN_TAG_DROPPED_ATTRIBUTES, &spans.dropped_attributes, row)
        and put_attributes(out, &spans.attributes, row, SPAN_TAG_ATTRIBUTES, &encoding.scratch)
        and put_time(out, SPAN_TAG_END, &spans.end, row)
        and put_time(out, SPAN_TAG_START, &spans.start, row)
        and put_signed(out, SPAN_TAG_KIND, view32(&spans.kind, row))
        and put_keyword(out, SPAN_TAG_NAME, &spans.name, row)
        and put_id_if(out, SPAN_TAG_PARENT_ID, &spans.parent_span_id, row, 8)
        and put_text_view(out, SPAN_TAG_TRACE_STATE, &spans.trace_state, row)
        and put_id_if(out, SPAN_TAG_SPAN_ID, &spans.span_id, row, 8)
        and put_id_if(out, SPAN_TAG_TRACE_ID, &spans.trace_id, row, 16)
    )


cdef inline bint put_status(Writer* out, TracesView* spans, size_t row) noexcept nogil:
    cdef size_t end = writer_size(out)
    return (
        put_signed(out, STATUS_TAG_CODE, view32(&spans.status_code, row))
        and put_text_view(out, STATUS_TAG_MESSAGE, &spans.status_message, row)
        and put_end(out, SPAN_TAG_STATUS, end)
    )


cdef inline bint put_events(Encoding* encoding, TracesView* spans, size_t row) noexcept nogil:
    cdef Writer* out = &encoding.out
    cdef Range range
    cdef size_t each, end
    if not view_range(&spans.events, row, spans.event_time.length, &range):
        return False
    each = range.end
    while each > range.first:
        each -= 1
        end = writer_size(out)
        if not (
            put_uint32(out, EVENT_TAG_DROPPED_ATTRIBUTES, &spans.event_dropped_attributes, each)
            and put_attributes(out, &spans.event_attributes, each, EVENT_TAG_ATTRIBUTES, &encoding.scratch)
            and put_keyword(out, EVENT_TAG_NAME, &spans.event_name, each)
            and put_time(out, EVENT_TAG_TIME, &spans.event_time, each)
            and put_end(out, SPAN_TAG_EVENTS, end)
        ):
            return False
    return True


cdef inline bint put_links(Encoding* encoding, TracesView* spans, size_t row) noexcept nogil:
    cdef Writer* out = &encoding.out
    cdef Range range
    cdef size_t each, end
    if not view_range(&spans.links, row, spans.link_flags.length, &range):
        return False
    each = range.end
    while each > range.first:
        each -= 1
        end = writer_size(out)
        if not (
            put_fixed32_if(out, LINK_TAG_FLAGS, <uint32_t>view32(&spans.link_flags, each))
            and put_uint32(out, LINK_TAG_DROPPED_ATTRIBUTES, &spans.link_dropped_attributes, each)
            and put_attributes(out, &spans.link_attributes, each, LINK_TAG_ATTRIBUTES, &encoding.scratch)
            and put_text_view(out, LINK_TAG_TRACE_STATE, &spans.link_trace_state, each)
            and put_id_if(out, LINK_TAG_SPAN_ID, &spans.link_span_id, each, 8)
            and put_id_if(out, LINK_TAG_TRACE_ID, &spans.link_trace_id, each, 16)
            and put_end(out, SPAN_TAG_LINKS, end)
        ):
            return False
    return True
