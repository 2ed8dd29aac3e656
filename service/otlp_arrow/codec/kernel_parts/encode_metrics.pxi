# Data points, from rows to bytes.

cdef bint see_metrics(MetricView* self, ArrowArray** columns) noexcept nogil:
    cdef ArrowArray* quantiles = columns[26].children[0]
    cdef ArrowArray* exemplars = columns[27].children[0]
    cdef Extent rows = whole(columns[0])
    cdef Extent inside
    return (
        see_keyword(&self.name, columns[0], rows)
        and see_keyword(&self.type, columns[1], rows)
        and see_keyword(&self.description, columns[2], rows)
        and see_keyword(&self.unit, columns[3], rows)
        and see_attributes(&self.metadata, columns[4], rows)
        and see(&self.start, columns[5], rows, NULLABLE)
        and see(&self.time, columns[6], rows, NULLABLE)
        and see(&self.int_value, columns[7], rows, NULLABLE)
        and see(&self.double_value, columns[8], rows, NULLABLE)
        and see_attributes(&self.attributes, columns[9], rows)
        and see(&self.flags, columns[10], rows, REQUIRED)
        and see(&self.temporality, columns[11], rows, NULLABLE)
        and see(&self.is_monotonic, columns[12], rows, NULLABLE)
        and see(&self.count, columns[13], rows, NULLABLE)
        and see(&self.sum, columns[14], rows, NULLABLE)
        and see(&self.min, columns[15], rows, NULLABLE)
        and see(&self.max, columns[16], rows, NULLABLE)
        and see_numbers(&self.buckets, &self.bucket, columns[17])
        and see_numbers(&self.bounds, &self.bound, columns[18])
        and see(&self.scale, columns[19], rows, NULLABLE)
        and see(&self.zero_count, columns[20], rows, NULLABLE)
        and see(&self.zero_threshold, columns[21], rows, NULLABLE)
        and see(&self.positive_offset, columns[22], rows, NULLABLE)
        and see_numbers(&self.positive, &self.positive_count, columns[23])
        and see(&self.negative_offset, columns[24], rows, NULLABLE)
        and see_numbers(&self.negative, &self.negative_count, columns[25])
        and see(&self.quantiles, columns[26], rows, NULLABLE)
        and see(&self.exemplars, columns[27], rows, REQUIRED)
        and see_struct(quantiles, whole(quantiles), &inside)
        and see(&self.quantile, quantiles.children[0], inside, REQUIRED)
        and see(&self.quantile_value, quantiles.children[1], inside, REQUIRED)
        and see_struct(exemplars, whole(exemplars), &inside)
        and see(&self.exemplar_time, exemplars.children[0], inside, NULLABLE)
        and see(&self.exemplar_int, exemplars.children[1], inside, NULLABLE)
        and see(&self.exemplar_double, exemplars.children[2], inside, NULLABLE)
        and see(&self.exemplar_trace_id, exemplars.children[3], inside, NULLABLE)
        and see(&self.exemplar_span_id, exemplars.children[4], inside, NULLABLE)
        and see_attributes(&self.exemplar_attributes, exemplars.children[5], inside)
    )


cdef bint same_metric(MetricView* self, size_t row, size_t other) noexcept nogil:
    return (
        view32(&self.name.indices, row) == view32(&self.name.indices, other)
        and view32(&self.type.indices, row) == view32(&self.type.indices, other)
        and view32(&self.description.indices, row) == view32(&self.description.indices, other)
        and view32(&self.unit.indices, row) == view32(&self.unit.indices, other)
        and optional32(&self.temporality, row) == optional32(&self.temporality, other)
        and optional_bool(&self.is_monotonic, row) == optional_bool(&self.is_monotonic, other)
        and same_attributes(&self.metadata, row, other)
    )


cdef inline int32_t optional32(View* self, size_t row) noexcept nogil:
    return view32(self, row) if view_valid(self, row) else 0


cdef inline bint optional_bool(View* self, size_t row) noexcept nogil:
    return view_valid(self, row) and view_bool(self, row)


cdef inline uint64_t optional64(View* self, size_t row) noexcept nogil:
    return view64(self, row) if view_valid(self, row) else 0


cdef int metric_kind(MetricView* self, size_t row) noexcept nogil:
    cdef int kind
    cdef Id name
    if view_keyword(&self.type, row, &name):
        for kind in range(GAUGE, SUMMARY + 1):
            if name.length == strlen(KIND_NAMES[kind]) and memcmp(name.data, KIND_NAMES[kind], name.length) == 0:
                return kind
    return NO_KIND


cdef int32_t find_metric(Encoding* self, size_t row, int32_t scope) noexcept nogil:
    """The key's parts: scope group, what comes before the data, what comes behind, what is in it."""
    cdef MetricView* metrics = self.metrics
    cdef Writer* out = &self.message
    cdef int kind = metric_kind(metrics, row)
    cdef int32_t data[3]
    data[0] = kind
    data[1] = optional32(&metrics.temporality, row) if kind != GAUGE and kind != SUMMARY else 0
    data[2] = optional_bool(&metrics.is_monotonic, row) if kind == SUM else 0
    self.key.length = 0
    out.at = out.capacity
    if kind == NO_KIND or not (
        put_keyword(out, METRIC_TAG_UNIT, &metrics.unit, row)
        and put_keyword(out, METRIC_TAG_DESCRIPTION, &metrics.description, row)
        and put_keyword(out, METRIC_TAG_NAME, &metrics.name, row)
        and key_add(&self.key, &scope, sizeof(scope))
        and key_add(&self.key, out.data + out.at, writer_size(out))
    ):
        return NO_KEYWORD
    out.at = out.capacity
    if not (
        put_attributes(out, &metrics.metadata, row, METRIC_TAG_METADATA, &self.scratch)
        and key_add(&self.key, out.data + out.at, writer_size(out))
        and key_add(&self.key, data, sizeof(data))
    ):
        return NO_KEYWORD
    return groups_find(&self.metric_groups, &self.key)


cdef bint write_metric(Encoding* encoding, size_t group) noexcept nogil:
    cdef Groups* groups = &encoding.metric_groups
    cdef Writer* out = &encoding.out
    cdef Id key = groups_key(groups, group)
    cdef Id before, behind, data
    cdef int32_t kind, temporality, is_monotonic
    cdef size_t each, end, point_end
    key_take(&key)  # the scope group
    before = key_take(&key)
    behind = key_take(&key)
    data = key_take(&key)
    kind = <int32_t>load32(data.data)
    temporality = <int32_t>load32(data.data + 4)
    is_monotonic = <int32_t>load32(data.data + 8)
    if not put_raw(out, behind.data, behind.length):
        return False
    end = writer_size(out)
    if not put_number(out, SUM_TAG_MONOTONIC, is_monotonic) or not put_signed(out, DATA_TAG_TEMPORALITY, temporality):
        return False
    each = groups.starts[group + 1]
    while each > groups.starts[group]:
        each -= 1
        point_end = writer_size(out)
        if not write_point(encoding, kind, groups.sorted[each]) or not put_end(out, DATA_TAG_POINTS, point_end):
            return False
    return put_end(out, data_tag(kind), end) and put_raw(out, before.data, before.length)


cdef uint32_t data_tag(int kind) noexcept nogil:
    if kind == GAUGE:
        return METRIC_TAG_GAUGE
    if kind == SUM:
        return METRIC_TAG_SUM
    if kind == HISTOGRAM:
        return METRIC_TAG_HISTOGRAM
    return METRIC_TAG_EXPONENTIAL if kind == EXPONENTIAL_HISTOGRAM else METRIC_TAG_SUMMARY


cdef bint write_point(Encoding* encoding, int kind, size_t row) noexcept nogil:
    if kind == HISTOGRAM:
        return write_histogram_point(encoding, row)
    if kind == EXPONENTIAL_HISTOGRAM:
        return write_exponential_point(encoding, row)
    if kind == SUMMARY:
        return write_summary_point(encoding, row)
    return write_number_point(encoding, row)


cdef inline bint put_times(Writer* out, MetricView* points, size_t row) noexcept nogil:
    return put_time(out, POINT_TAG_TIME, &points.time, row) and put_time(out, POINT_TAG_START, &points.start, row)


cdef inline bint put_optional64(Writer* out, uint32_t tag, View* numbers, size_t row) noexcept nogil:
    """A field with presence: even a zero, unless it is null."""
    return not view_valid(numbers, row) or put_fixed64(out, tag, view64(numbers, row))


cdef bint write_number_point(Encoding* encoding, size_t row) noexcept nogil:
    cdef MetricView* points = encoding.metrics
    cdef Writer* out = &encoding.out
    if view_valid(&points.int_value, row) and view_valid(&points.double_value, row):
        return False
    return (
        put_uint32(out, NUMBER_TAG_FLAGS, &points.flags, row)
        and put_attributes(out, &points.attributes, row, NUMBER_TAG_ATTRIBUTES, &encoding.scratch)
        and put_optional64(out, NUMBER_TAG_INT, &points.int_value, row)
        and put_exemplars(encoding, NUMBER_TAG_EXEMPLARS, row)
        and put_optional64(out, NUMBER_TAG_DOUBLE, &points.double_value, row)
        and put_times(out, points, row)
    )


cdef bint write_histogram_point(Encoding* encoding, size_t row) noexcept nogil:
    cdef MetricView* points = encoding.metrics
    cdef Writer* out = &encoding.out
    return (
        put_optional64(out, HISTOGRAM_TAG_MAX, &points.max, row)
        and put_optional64(out, HISTOGRAM_TAG_MIN, &points.min, row)
        and put_uint32(out, HISTOGRAM_TAG_FLAGS, &points.flags, row)
        and put_attributes(out, &points.attributes, row, HISTOGRAM_TAG_ATTRIBUTES, &encoding.scratch)
        and put_exemplars(encoding, HISTOGRAM_TAG_EXEMPLARS, row)
        and put_packed64(out, HISTOGRAM_TAG_BOUNDS, &points.bounds, &points.bound, row)
        and put_packed64(out, HISTOGRAM_TAG_BUCKETS, &points.buckets, &points.bucket, row)
        and put_optional64(out, POINT_TAG_SUM, &points.sum, row)
        and put_fixed64_if(out, POINT_TAG_COUNT, optional64(&points.count, row))
        and put_times(out, points, row)
    )


cdef bint write_exponential_point(Encoding* encoding, size_t row) noexcept nogil:
    cdef MetricView* points = encoding.metrics
    cdef Writer* out = &encoding.out
    return (
        put_fixed64_if(out, EXPONENTIAL_TAG_ZERO_THRESHOLD, optional64(&points.zero_threshold, row))
        and put_optional64(out, EXPONENTIAL_TAG_MAX, &points.max, row)
        and put_optional64(out, EXPONENTIAL_TAG_MIN, &points.min, row)
        and put_exemplars(encoding, EXPONENTIAL_TAG_EXEMPLARS, row)
        and put_uint32(out, EXPONENTIAL_TAG_FLAGS, &points.flags, row)
        and put_buckets(
            out, EXPONENTIAL_TAG_NEGATIVE, &points.negative_offset, &points.negative, &points.negative_count, row
        )
        and put_buckets(
            out, EXPONENTIAL_TAG_POSITIVE, &points.positive_offset, &points.positive, &points.positive_count, row
        )
        and put_fixed64_if(out, EXPONENTIAL_TAG_ZERO_COUNT, optional64(&points.zero_count, row))
        and put_zigzag(out, EXPONENTIAL_TAG_SCALE, optional32(&points.scale, row))
        and put_optional64(out, POINT_TAG_SUM, &points.sum, row)
        and put_fixed64_if(out, POINT_TAG_COUNT, optional64(&points.count, row))
        and put_times(out, points, row)
        and put_attributes(out, &points.attributes, row, EXPONENTIAL_TAG_ATTRIBUTES, &encoding.scratch)
    )


cdef bint write_summary_point(Encoding* encoding, size_t row) noexcept nogil:
    cdef MetricView* points = encoding.metrics
    cdef Writer* out = &encoding.out
    return (
        put_uint32(out, SUMMARY_TAG_FLAGS, &points.flags, row)
        and put_attributes(out, &points.attributes, row, SUMMARY_TAG_ATTRIBUTES, &encoding.scratch)
        and put_quantiles(out, points, row)
        and put_fixed64_if(out, POINT_TAG_SUM, optional64(&points.sum, row))
        and put_fixed64_if(out, POINT_TAG_COUNT, optional64(&points.count, row))
        and put_times(out, points, row)
    )


cdef bint put_packed64(Writer* out, uint32_t tag, View* lists, View* numbers, size_t row) noexcept nogil:
    cdef Range range
    if not view_list(lists, row, numbers.length, &range):
        return False
    return range.first == range.end or put_bytes(
        out, tag, numbers.data + 8 * (numbers.offset + range.first), 8 * (range.end - range.first)
    )


cdef bint put_buckets(
    Writer* out, uint32_t tag, View* offsets, View* lists, View* counts, size_t row
) noexcept nogil:
    """Even an empty Buckets message, as the reference has it."""
    cdef size_t end = writer_size(out)
    cdef size_t each
    cdef Range range
    if not view_list(lists, row, counts.length, &range):
        return False
    if range.first < range.end:
        each = range.end
        while each > range.first:
            each -= 1
            if not writer_reserve(out, FIELD_ROOM):
                return False
            put_varint(out, view64(counts, each))
        if not put_end(out, BUCKETS_TAG_COUNTS, end):
            return False
    return put_zigzag(out, BUCKETS_TAG_OFFSET, optional32(offsets, row)) and put_end(out, tag, end)


cdef bint put_quantiles(Writer* out, MetricView* points, size_t row) noexcept nogil:
    cdef Range range
    cdef size_t each, end
    if not view_list(&points.quantiles, row, points.quantile.length, &range):
        return False
    each = range.end
    while each > range.first:
        each -= 1
        end = writer_size(out)
        if not (
            put_fixed64_if(out, QUANTILE_TAG_VALUE, view64(&points.quantile_value, each))
            and put_fixed64_if(out, QUANTILE_TAG_QUANTILE, view64(&points.quantile, each))
            and put_end(out, SUMMARY_TAG_QUANTILES, end)
        ):
            return False
    return True


cdef bint put_exemplars(Encoding* encoding, uint32_t tag, size_t row) noexcept nogil:
    cdef MetricView* points = encoding.metrics
    cdef Writer* out = &encoding.out
    cdef Range range
    cdef size_t each, end
    if not view_range(&points.exemplars, row, points.exemplar_time.length, &range):
        return False
    each = range.end
    while each > range.first:
        each -= 1
        if view_valid(&points.exemplar_int, each) and view_valid(&points.exemplar_double, each):
            return False
        end = writer_size(out)
        if not (
            put_attributes(out, &points.exemplar_attributes, each, EXEMPLAR_TAG_ATTRIBUTES, &encoding.scratch)
            and put_optional64(out, EXEMPLAR_TAG_INT, &points.exemplar_int, each)
            and put_id_if(out, EXEMPLAR_TAG_TRACE_ID, &points.exemplar_trace_id, each, 16)
            and put_id_if(out, EXEMPLAR_TAG_SPAN_ID, &points.exemplar_span_id, each, 8)
            and put_optional64(out, EXEMPLAR_TAG_DOUBLE, &points.exemplar_double, each)
            and put_time(out, EXEMPLAR_TAG_TIME, &points.exemplar_time, each)
            and put_end(out, tag, end)
        ):
            return False
    return True
