# Metrics: a row a data point; what the metric says about all of its points is filled in afterwards,
# as for resources and scopes.

cdef enum MetricColumn:
    METRIC_NAME = ORIGIN_COLUMNS
    METRIC_TYPE
    METRIC_DESCRIPTION
    METRIC_UNIT
    METRIC_METADATA_END
    METRIC_TEMPORALITY
    POINT_START
    POINT_TIME
    POINT_INT
    POINT_DOUBLE
    POINT_ATTRIBUTES_END
    POINT_FLAGS
    POINT_COUNT
    POINT_SUM
    POINT_MIN
    POINT_MAX
    POINT_BUCKETS_END
    POINT_BOUNDS_END
    POINT_SCALE
    POINT_ZERO_COUNT
    POINT_ZERO_THRESHOLD
    POINT_POSITIVE_OFFSET
    POINT_POSITIVE_END
    POINT_NEGATIVE_OFFSET
    POINT_NEGATIVE_END
    POINT_QUANTILES_END
    POINT_EXEMPLARS_END
    # Not columns of the batch: what tells which of them are null.
    POINT_KIND  # a MetricKind
    POINT_HAS
    POINT_COLUMNS

cdef enum MetricKind:
    NO_KIND = 0
    GAUGE = 1
    SUM = 2
    HISTOGRAM = 3
    EXPONENTIAL_HISTOGRAM = 4
    SUMMARY = 5

cdef enum Has:
    HAS_INT = 1
    HAS_DOUBLE = 2
    HAS_SUM = 4
    HAS_MIN = 8
    HAS_MAX = 16
    HAS_MONOTONIC = 32  # the value of is_monotonic

cdef enum QuantileColumn:
    QUANTILE = 0
    QUANTILE_VALUE
    QUANTILE_COLUMNS

cdef enum ExemplarColumn:
    EXEMPLAR_TIME = 0
    EXEMPLAR_INT
    EXEMPLAR_DOUBLE
    EXEMPLAR_TRACE_ID
    EXEMPLAR_SPAN_ID
    EXEMPLAR_ATTRIBUTES_END
    EXEMPLAR_HAS
    EXEMPLAR_COLUMNS

cdef enum MetricTag:
    METRIC_TAG_NAME = 1 << 3 | LEN
    METRIC_TAG_DESCRIPTION = 2 << 3 | LEN
    METRIC_TAG_UNIT = 3 << 3 | LEN
    METRIC_TAG_GAUGE = 5 << 3 | LEN
    METRIC_TAG_SUM = 7 << 3 | LEN
    METRIC_TAG_HISTOGRAM = 9 << 3 | LEN
    METRIC_TAG_EXPONENTIAL = 10 << 3 | LEN
    METRIC_TAG_SUMMARY = 11 << 3 | LEN
    METRIC_TAG_METADATA = 12 << 3 | LEN
    DATA_TAG_POINTS = 1 << 3 | LEN
    DATA_TAG_TEMPORALITY = 2 << 3 | VARINT
    SUM_TAG_MONOTONIC = 3 << 3 | VARINT
    # All data points
    POINT_TAG_START = 2 << 3 | I64
    POINT_TAG_TIME = 3 << 3 | I64
    NUMBER_TAG_DOUBLE = 4 << 3 | I64
    NUMBER_TAG_EXEMPLARS = 5 << 3 | LEN
    NUMBER_TAG_INT = 6 << 3 | I64
    NUMBER_TAG_ATTRIBUTES = 7 << 3 | LEN
    NUMBER_TAG_FLAGS = 8 << 3 | VARINT
    # Histograms of both kinds, and summaries
    POINT_TAG_COUNT = 4 << 3 | I64
    POINT_TAG_SUM = 5 << 3 | I64
    HISTOGRAM_TAG_BUCKETS = 6 << 3 | LEN
    HISTOGRAM_TAG_BUCKET = 6 << 3 | I64
    HISTOGRAM_TAG_BOUNDS = 7 << 3 | LEN
    HISTOGRAM_TAG_BOUND = 7 << 3 | I64
    HISTOGRAM_TAG_EXEMPLARS = 8 << 3 | LEN
    HISTOGRAM_TAG_ATTRIBUTES = 9 << 3 | LEN
    HISTOGRAM_TAG_FLAGS = 10 << 3 | VARINT
    HISTOGRAM_TAG_MIN = 11 << 3 | I64
    HISTOGRAM_TAG_MAX = 12 << 3 | I64
    EXPONENTIAL_TAG_ATTRIBUTES = 1 << 3 | LEN
    EXPONENTIAL_TAG_SCALE = 6 << 3 | VARINT
    EXPONENTIAL_TAG_ZERO_COUNT = 7 << 3 | I64
    EXPONENTIAL_TAG_POSITIVE = 8 << 3 | LEN
    EXPONENTIAL_TAG_NEGATIVE = 9 << 3 | LEN
    EXPONENTIAL_TAG_FLAGS = 10 << 3 | VARINT
    EXPONENTIAL_TAG_EXEMPLARS = 11 << 3 | LEN
    EXPONENTIAL_TAG_MIN = 12 << 3 | I64
    EXPONENTIAL_TAG_MAX = 13 << 3 | I64
    EXPONENTIAL_TAG_ZERO_THRESHOLD = 14 << 3 | I64
    BUCKETS_TAG_OFFSET = 1 << 3 | VARINT
    BUCKETS_TAG_COUNTS = 2 << 3 | LEN
    BUCKETS_TAG_COUNT = 2 << 3 | VARINT
    SUMMARY_TAG_QUANTILES = 6 << 3 | LEN
    SUMMARY_TAG_ATTRIBUTES = 7 << 3 | LEN
    SUMMARY_TAG_FLAGS = 8 << 3 | VARINT
    QUANTILE_TAG_QUANTILE = 1 << 3 | I64
    QUANTILE_TAG_VALUE = 2 << 3 | I64
    EXEMPLAR_TAG_TIME = 2 << 3 | I64
    EXEMPLAR_TAG_DOUBLE = 3 << 3 | I64
    EXEMPLAR_TAG_SPAN_ID = 4 << 3 | LEN
    EXEMPLAR_TAG_TRACE_ID = 5 << 3 | LEN
    EXEMPLAR_TAG_INT = 6 << 3 | I64
    EXEMPLAR_TAG_ATTRIBUTES = 7 << 3 | LEN

cdef enum:
    DATA_DEPTH = RECORD_DEPTH - 1  # Gauge, Sum, …
    POINT_DEPTH = RECORD_DEPTH - 2

cdef const char** KIND_NAMES = ["", "gauge", "sum", "histogram", "exponential_histogram", "summary"]


cdef struct Metrics:
    Columns shared
    Keywords names
    Keywords types
    Keywords descriptions
    Keywords units
    Attributes metadata
    Attributes attributes
    # Members of lists of numbers: tables of one column.
    Table buckets
    Table bounds
    Table positive
    Table negative
    Table quantiles
    Table exemplars
    Attributes exemplar_attributes
    int indexed_points  # dictionaries from here on belong to points, not to the metric


cdef struct Metric:
    Id name
    Id description
    Id unit
    int kind
    int32_t temporality
    bint is_monotonic
    uint64_t metadata_size
    int32_t before  # the key of the last metadata attribute
    # Where the points of the metric begin.
    size_t first
    uint64_t records
    uint64_t rejected
    Marks marks


cdef struct Point:
    uint64_t start
    uint64_t time
    int64_t integer
    double real
    uint64_t count
    double sum
    double min
    double max
    uint64_t zero_count
    double zero_threshold
    int32_t scale
    int32_t positive_offset
    int32_t negative_offset
    int32_t flags
    uint8_t has
    int32_t before  # the key of the last attribute
    Verdict exemplars


# -- the metric ------------------------------------------------------------------------------------

cdef bint scan_metric(void* columns, Scan* scan, Position at, Position end) noexcept nogil:
    cdef Metrics* self = <Metrics*>columns
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef size_t metadata = self.metadata.values.table.rows
    cdef size_t keys = self.metadata.keys.entries.rows
    cdef size_t rows
    cdef int kind
    cdef Metric metric
    memset(&metric, 0, sizeof(Metric))
    metric.name.data = at
    metric.description.data = at
    metric.unit.data = at
    metric.before = NO_KEYWORD
    metric.first = self.shared.records.rows
    metric.records = scan.records
    metric.rejected = scan.rejected
    columns_mark(&self.shared, self.indexed_points, &metric.marks)
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        kind = NO_KIND
        if tag == METRIC_TAG_NAME:
            at = read_text(at, end, &metric.name.data, &metric.name.length)
        elif tag == METRIC_TAG_DESCRIPTION:
            at = read_text(at, end, &metric.description.data, &metric.description.length)
        elif tag == METRIC_TAG_UNIT:
            at = read_text(at, end, &metric.unit.data, &metric.unit.length)
        elif tag == METRIC_TAG_GAUGE:
            kind = GAUGE
        elif tag == METRIC_TAG_SUM:
            kind = SUM
        elif tag == METRIC_TAG_HISTOGRAM:
            kind = HISTOGRAM
        elif tag == METRIC_TAG_EXPONENTIAL:
            kind = EXPONENTIAL_HISTOGRAM
        elif tag == METRIC_TAG_SUMMARY:
            kind = SUMMARY
        elif tag == METRIC_TAG_METADATA:
            at = read_length(at, end, &length)
            if at == NULL or not scan_attribute(
                &self.metadata, &metric.before, at, at + length, RECORD_DEPTH - 1, scan.limit
            ):
                return False
            metric.metadata_size += length
            at += length
        else:
            at = skip_field(at, end, tag, RECORD_DEPTH)
        if at == NULL:
            return False
        if kind != NO_KIND:
            at = read_length(at, end, &length)
            if at == NULL:
                return False
            if metric.kind != kind:
                replace_data(self, scan, &metric, kind)
            if not scan_data(self, scan, &metric, at, at + length):
                return False
            at += length
    rows = self.shared.records.rows - metric.first
    length = metric.name.length + metric.description.length + metric.unit.length
    if rows > 0 and repeat_allowed(scan, rows, metric.metadata_size + length):
        return fill_metric(self, scan, &metric, rows, metadata)
    attributes_cut(&self.metadata, metadata)
    keywords_cut(&self.metadata.keys, keys)
    return True


cdef void replace_data(Metrics* self, Scan* scan, Metric* metric, int kind) noexcept nogil:
    """Another member of the oneof: the points of the one before it never were."""
    if metric.kind != NO_KIND:
        points_cut(self, metric.first)
        columns_forget(&self.shared, self.indexed_points, &metric.marks)
        scan.records = metric.records
        scan.rejected = metric.rejected
    metric.kind = kind
    metric.temporality = 0
    metric.is_monotonic = False


cdef bint fill_metric(Metrics* self, Scan* scan, Metric* metric, size_t rows, size_t metadata) noexcept nogil:
    cdef Table* table = &self.shared.records
    cdef size_t first = metric.first
    cdef size_t count = self.metadata.values.table.rows - metadata
    cdef const char* kind = KIND_NAMES[metric.kind]
    cdef size_t row
    if not (
        holding_allowed(&self.shared, attributes_bytes(&self.metadata, metadata) * (rows - 1))
        and keyword_put(&self.names, i32(table, METRIC_NAME), first, metric.name.data, metric.name.length, scan.limit)
        and keyword_put(&self.types, i32(table, METRIC_TYPE), first, <Position>kind, strlen(kind), <Position>kind)
        and keyword_put(
            &self.descriptions,
            i32(table, METRIC_DESCRIPTION),
            first,
            metric.description.data,
            metric.description.length,
            scan.limit,
        )
        and keyword_put(&self.units, i32(table, METRIC_UNIT), first, metric.unit.data, metric.unit.length, scan.limit)
    ):
        return False
    fill32(table, METRIC_NAME, first, rows, self.names.last)
    fill32(table, METRIC_TYPE, first, rows, self.types.last)
    fill32(table, METRIC_DESCRIPTION, first, rows, self.descriptions.last)
    fill32(table, METRIC_UNIT, first, rows, self.units.last)
    fill32(table, METRIC_TEMPORALITY, first, rows, metric.temporality)
    for row in range(first, first + rows):
        u8(table, POINT_KIND)[row] = <uint8_t>metric.kind
        if metric.is_monotonic:
            u8(table, POINT_HAS)[row] |= HAS_MONOTONIC
    fill_ends(table, METRIC_METADATA_END, first, rows, metadata, count)
    return attributes_repeat(&self.metadata, count, rows - 1)


cdef bint scan_data(Metrics* self, Scan* scan, Metric* metric, Position at, Position end) noexcept nogil:
    """A Gauge, Sum, Histogram, ExponentialHistogram or Summary: they differ in their points."""
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef bint has_temporality = metric.kind != GAUGE and metric.kind != SUMMARY
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == DATA_TAG_POINTS:
            at = read_length(at, end, &length)
            if at == NULL or not scan_point(self, scan, metric.kind, at, at + length):
                return False
            at += length
        elif tag == DATA_TAG_TEMPORALITY and has_temporality:
            at = read_int32(at, end, &metric.temporality)
        elif tag == SUM_TAG_MONOTONIC and metric.kind == SUM:
            at = read_bool(at, end, &metric.is_monotonic)
        else:
            at = skip_field(at, end, tag, DATA_DEPTH)
        if at == NULL:
            return False
    return True


# -- its points ------------------------------------------------------------------------------------

cdef bint scan_point(Metrics* self, Scan* scan, int kind, Position at, Position end) noexcept nogil:
    cdef Table* table = &self.shared.records
    cdef size_t row = table.rows
    cdef Point point
    cdef Marks marks
    cdef Verdict verdict
    cdef bint fine
    if not table_reserve(table, 1):
        return False
    columns_mark(&self.shared, self.indexed_points, &marks)
    memset(&point, 0, sizeof(Point))
    point.before = NO_KEYWORD
    point.exemplars = passed()
    if kind == HISTOGRAM:
        fine = scan_histogram_point(self, scan, &point, at, end)
    elif kind == EXPONENTIAL_HISTOGRAM:
        fine = scan_exponential_point(self, scan, &point, at, end)
    elif kind == SUMMARY:
        fine = scan_summary_point(self, scan, &point, at, end)
    else:
        fine = scan_number_point(self, scan, &point, at, end)
    if not fine:
        return False
    verdict = passed()
    if unlikely(too_late(point.start)):
        fail(&verdict, CHECK_START_TIME, 0, 0)
    if unlikely(too_late(point.time)):
        fail(&verdict, CHECK_TIME, 0, 0)
    if verdict.check == PASSED:
        verdict = point.exemplars
    if unlikely(verdict.check != PASSED):
        reject(scan, verdict.check, verdict.length, verdict.member)
        points_cut(self, row)
        columns_forget(&self.shared, self.indexed_points, &marks)
    else:
        append_point(self, &point, row)
    scan.records += 1
    return True


cdef inline void append_point(Metrics* self, Point* point, size_t row) noexcept nogil:
    cdef Table* table = &self.shared.records
    i64(table, POINT_START)[row] = <int64_t>point.start
    i64(table, POINT_TIME)[row] = <int64_t>point.time
    i64(table, POINT_INT)[row] = point.integer
    f64(table, POINT_DOUBLE)[row] = point.real
    i32(table, POINT_ATTRIBUTES_END)[row + 1] = <int32_t>self.attributes.values.table.rows
    i32(table, POINT_FLAGS)[row] = point.flags
    i64(table, POINT_COUNT)[row] = <int64_t>point.count
    f64(table, POINT_SUM)[row] = point.sum
    f64(table, POINT_MIN)[row] = point.min
    f64(table, POINT_MAX)[row] = point.max
    i32(table, POINT_BUCKETS_END)[row + 1] = <int32_t>self.buckets.rows
    i32(table, POINT_BOUNDS_END)[row + 1] = <int32_t>self.bounds.rows
    i32(table, POINT_SCALE)[row] = point.scale
    i64(table, POINT_ZERO_COUNT)[row] = <int64_t>point.zero_count
    f64(table, POINT_ZERO_THRESHOLD)[row] = point.zero_threshold
    i32(table, POINT_POSITIVE_OFFSET)[row] = point.positive_offset
    i32(table, POINT_POSITIVE_END)[row + 1] = <int32_t>self.positive.rows
    i32(table, POINT_NEGATIVE_OFFSET)[row] = point.negative_offset
    i32(table, POINT_NEGATIVE_END)[row + 1] = <int32_t>self.negative.rows
    i32(table, POINT_QUANTILES_END)[row + 1] = <int32_t>self.quantiles.rows
    i32(table, POINT_EXEMPLARS_END)[row + 1] = <int32_t>self.exemplars.rows
    u8(table, POINT_HAS)[row] = point.has
    table.rows = row + 1


cdef inline Position scan_point_attribute(
    Metrics* self, Scan* scan, Point* point, Position at, Position end
) noexcept nogil:
    cdef size_t length = 0
    at = read_length(at, end, &length)
    if at == NULL or not scan_attribute(
        &self.attributes, &point.before, at, at + length, POINT_DEPTH - 1, scan.limit
    ):
        return NULL
    return at + length


cdef bint scan_number_point(Metrics* self, Scan* scan, Point* point, Position at, Position end) noexcept nogil:
    cdef uint32_t tag = 0
    cdef size_t first = self.exemplars.rows
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == NUMBER_TAG_ATTRIBUTES:
            at = scan_point_attribute(self, scan, point, at, end)
        elif tag == POINT_TAG_START:
            at = read_fixed64(at, end, &point.start)
        elif tag == POINT_TAG_TIME:
            at = read_fixed64(at, end, &point.time)
        elif tag == NUMBER_TAG_DOUBLE:
            at = read_double(at, end, &point.real)
            point.integer = 0
            point.has = HAS_DOUBLE
        elif tag == NUMBER_TAG_INT:
            at = read_fixed64(at, end, <uint64_t*>&point.integer)
            point.real = 0
            point.has = HAS_INT
        elif tag == NUMBER_TAG_EXEMPLARS:
            at = scan_exemplar(self, scan, &point.exemplars, first, at, end)
        elif tag == NUMBER_TAG_FLAGS:
            at = read_int32(at, end, &point.flags)
        else:
            at = skip_field(at, end, tag, POINT_DEPTH)
        if at == NULL:
            return False
    return True


cdef bint scan_histogram_point(Metrics* self, Scan* scan, Point* point, Position at, Position end) noexcept nogil:
    cdef uint32_t tag = 0
    cdef size_t first = self.exemplars.rows
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == HISTOGRAM_TAG_ATTRIBUTES:
            at = scan_point_attribute(self, scan, point, at, end)
        elif tag == POINT_TAG_START:
            at = read_fixed64(at, end, &point.start)
        elif tag == POINT_TAG_TIME:
            at = read_fixed64(at, end, &point.time)
        elif tag == POINT_TAG_COUNT:
            at = read_fixed64(at, end, &point.count)
        elif tag == POINT_TAG_SUM:
            at = read_double(at, end, &point.sum)
            point.has |= HAS_SUM
        elif tag == HISTOGRAM_TAG_BUCKETS:
            at = read_packed64(&self.buckets, at, end)
        elif tag == HISTOGRAM_TAG_BUCKET:
            at = read_one64(&self.buckets, at, end)
        elif tag == HISTOGRAM_TAG_BOUNDS:
            at = read_packed64(&self.bounds, at, end)
        elif tag == HISTOGRAM_TAG_BOUND:
            at = read_one64(&self.bounds, at, end)
        elif tag == HISTOGRAM_TAG_EXEMPLARS:
            at = scan_exemplar(self, scan, &point.exemplars, first, at, end)
        elif tag == HISTOGRAM_TAG_FLAGS:
            at = read_int32(at, end, &point.flags)
        elif tag == HISTOGRAM_TAG_MIN:
            at = read_double(at, end, &point.min)
            point.has |= HAS_MIN
        elif tag == HISTOGRAM_TAG_MAX:
            at = read_double(at, end, &point.max)
            point.has |= HAS_MAX
        else:
            at = skip_field(at, end, tag, POINT_DEPTH)
        if at == NULL:
            return False
    return True


cdef bint scan_exponential_point(Metrics* self, Scan* scan, Point* point, Position at, Position end) noexcept nogil:
    cdef uint32_t tag = 0
    cdef size_t first = self.exemplars.rows
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == EXPONENTIAL_TAG_ATTRIBUTES:
            at = scan_point_attribute(self, scan, point, at, end)
        elif tag == POINT_TAG_START:
            at = read_fixed64(at, end, &point.start)
        elif tag == POINT_TAG_TIME:
            at = read_fixed64(at, end, &point.time)
        elif tag == POINT_TAG_COUNT:
            at = read_fixed64(at, end, &point.count)
        elif tag == POINT_TAG_SUM:
            at = read_double(at, end, &point.sum)
            point.has |= HAS_SUM
        elif tag == EXPONENTIAL_TAG_SCALE:
            at = read_sint32(at, end, &point.scale)
        elif tag == EXPONENTIAL_TAG_ZERO_COUNT:
            at = read_fixed64(at, end, &point.zero_count)
        elif tag == EXPONENTIAL_TAG_POSITIVE:
            at = scan_buckets(&self.positive, &point.positive_offset, at, end)
        elif tag == EXPONENTIAL_TAG_NEGATIVE:
            at = scan_buckets(&self.negative, &point.negative_offset, at, end)
        elif tag == EXPONENTIAL_TAG_FLAGS:
            at = read_int32(at, end, &point.flags)
        elif tag == EXPONENTIAL_TAG_EXEMPLARS:
            at = scan_exemplar(self, scan, &point.exemplars, first, at, end)
        elif tag == EXPONENTIAL_TAG_MIN:
            at = read_double(at, end, &point.min)
            point.has |= HAS_MIN
        elif tag == EXPONENTIAL_TAG_MAX:
            at = read_double(at, end, &point.max)
            point.has |= HAS_MAX
        elif tag == EXPONENTIAL_TAG_ZERO_THRESHOLD:
            at = read_double(at, end, &point.zero_threshold)
        else:
            at = skip_field(at, end, tag, POINT_DEPTH)
        if at == NULL:
            return False
    return True


cdef bint scan_summary_point(Metrics* self, Scan* scan, Point* point, Position at, Position end) noexcept nogil:
    cdef uint32_t tag = 0
    point.has = HAS_SUM
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == SUMMARY_TAG_ATTRIBUTES:
            at = scan_point_attribute(self, scan, point, at, end)
        elif tag == POINT_TAG_START:
            at = read_fixed64(at, end, &point.start)
        elif tag == POINT_TAG_TIME:
            at = read_fixed64(at, end, &point.time)
        elif tag == POINT_TAG_COUNT:
            at = read_fixed64(at, end, &point.count)
        elif tag == POINT_TAG_SUM:
            at = read_double(at, end, &point.sum)
        elif tag == SUMMARY_TAG_QUANTILES:
            at = scan_quantile(&self.quantiles, at, end)
        elif tag == SUMMARY_TAG_FLAGS:
            at = read_int32(at, end, &point.flags)
        else:
            at = skip_field(at, end, tag, POINT_DEPTH)
        if at == NULL:
            return False
    return True


# -- members of points -----------------------------------------------------------------------------

cdef Position read_packed64(Table* numbers, Position at, Position end) noexcept nogil:
    """Packed fixed64 or double: as they stand."""
    cdef size_t length = 0
    at = read_length(at, end, &length)
    if at == NULL or length % 8 != 0 or not table_reserve(numbers, length // 8):
        return NULL
    if length > 0:
        memcpy(i64(numbers, 0) + numbers.rows, at, length)
    numbers.rows += length // 8
    return at + length


cdef Position read_one64(Table* numbers, Position at, Position end) noexcept nogil:
    if end - at < 8 or not table_reserve(numbers, 1):
        return NULL
    memcpy(i64(numbers, 0) + numbers.rows, at, 8)
    numbers.rows += 1
    return at + 8


cdef Position read_one_varint(Table* numbers, Position at, Position end) noexcept nogil:
    if not table_reserve(numbers, 1):
        return NULL
    at = read_varint(at, end, <uint64_t*>i64(numbers, 0) + numbers.rows)
    numbers.rows += 1
    return at


cdef Position scan_buckets(Table* counts, int32_t* offset, Position at, Position parent_end) noexcept nogil:
    """An ExponentialHistogramDataPoint.Buckets."""
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef Position end, packed_end
    at = read_length(at, parent_end, &length)
    if at == NULL:
        return NULL
    end = at + length
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return NULL
        if tag == BUCKETS_TAG_COUNTS:
            at = read_length(at, end, &length)
            if at == NULL:
                return NULL
            packed_end = at + length
            while at < packed_end:
                at = read_one_varint(counts, at, packed_end)
                if at == NULL:
                    return NULL
        elif tag == BUCKETS_TAG_COUNT:
            at = read_one_varint(counts, at, end)
        elif tag == BUCKETS_TAG_OFFSET:
            at = read_sint32(at, end, offset)
        else:
            at = skip_field(at, end, tag, POINT_DEPTH - 1)
        if at == NULL:
            return NULL
    return end


cdef Position scan_quantile(Table* quantiles, Position at, Position parent_end) noexcept nogil:
    """A SummaryDataPoint.ValueAtQuantile."""
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef double quantile = 0
    cdef double value = 0
    cdef Position end
    at = read_length(at, parent_end, &length)
    if at == NULL or not table_reserve(quantiles, 1):
        return NULL
    end = at + length
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return NULL
        if tag == QUANTILE_TAG_QUANTILE:
            at = read_double(at, end, &quantile)
        elif tag == QUANTILE_TAG_VALUE:
            at = read_double(at, end, &value)
        else:
            at = skip_field(at, end, tag, POINT_DEPTH - 1)
        if at == NULL:
            return NULL
    f64(quantiles, QUANTILE)[quantiles.rows] = quantile
    f64(quantiles, QUANTILE_VALUE)[quantiles.rows] = value
    quantiles.rows += 1
    return end


cdef Position scan_exemplar(
    Metrics* self, Scan* scan, Verdict* verdict, size_t first, Position at, Position parent_end
) noexcept nogil:
    cdef Table* table = &self.exemplars
    cdef size_t row = table.rows
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef int32_t before = NO_KEYWORD
    cdef Id trace_id, span_id
    cdef uint64_t time = 0
    cdef int64_t integer = 0
    cdef double real = 0
    cdef uint8_t has = 0
    cdef Position end
    at = read_length(at, parent_end, &length)
    if at == NULL or not table_reserve(table, 1):
        return NULL
    end = at + length
    trace_id = Id(at, 0)
    span_id = Id(at, 0)
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return NULL
        if tag == EXEMPLAR_TAG_ATTRIBUTES:
            at = read_length(at, end, &length)
            if at == NULL or not scan_attribute(
                &self.exemplar_attributes, &before, at, at + length, POINT_DEPTH - 2, scan.limit
            ):
                return NULL
            at += length
        elif tag == EXEMPLAR_TAG_TIME:
            at = read_fixed64(at, end, &time)
        elif tag == EXEMPLAR_TAG_DOUBLE:
            at = read_double(at, end, &real)
            integer = 0
            has = HAS_DOUBLE
        elif tag == EXEMPLAR_TAG_INT:
            at = read_fixed64(at, end, <uint64_t*>&integer)
            real = 0
            has = HAS_INT
        elif tag == EXEMPLAR_TAG_SPAN_ID:
            at = read_bytes(at, end, &span_id.data, &span_id.length)
        elif tag == EXEMPLAR_TAG_TRACE_ID:
            at = read_bytes(at, end, &trace_id.data, &trace_id.length)
        else:
            at = skip_field(at, end, tag, POINT_DEPTH - 1)
        if at == NULL:
            return NULL
    if too_late(time):
        fail(verdict, CHECK_EXEMPLAR_TIME, 0, row - first)
    if trace_id.length != 16 and trace_id.length != 0:
        fail(verdict, CHECK_EXEMPLAR_TRACE_ID_LENGTH, trace_id.length, row - first)
    if span_id.length != 8 and span_id.length != 0:
        fail(verdict, CHECK_EXEMPLAR_SPAN_ID_LENGTH, span_id.length, row - first)
    i64(table, EXEMPLAR_TIME)[row] = <int64_t>time
    i64(table, EXEMPLAR_INT)[row] = integer
    f64(table, EXEMPLAR_DOUBLE)[row] = real
    store_id(u8(table, EXEMPLAR_TRACE_ID) + 16 * row, &trace_id, 16)
    store_id(u8(table, EXEMPLAR_SPAN_ID) + 8 * row, &span_id, 8)
    i32(table, EXEMPLAR_ATTRIBUTES_END)[row + 1] = <int32_t>self.exemplar_attributes.values.table.rows
    u8(table, EXEMPLAR_HAS)[row] = has
    table.rows = row + 1
    return end


# -- cutting, setting up ---------------------------------------------------------------------------

cdef void points_cut(Metrics* self, size_t row) noexcept nogil:
    """Forget the points from ``row`` on, and what they have in other tables."""
    cdef Table* points = &self.shared.records
    attributes_cut(&self.attributes, offset_at(points, POINT_ATTRIBUTES_END, row))
    self.buckets.rows = offset_at(points, POINT_BUCKETS_END, row)
    self.bounds.rows = offset_at(points, POINT_BOUNDS_END, row)
    self.positive.rows = offset_at(points, POINT_POSITIVE_END, row)
    self.negative.rows = offset_at(points, POINT_NEGATIVE_END, row)
    self.quantiles.rows = offset_at(points, POINT_QUANTILES_END, row)
    self.exemplars.rows = offset_at(points, POINT_EXEMPLARS_END, row)
    attributes_cut(
        &self.exemplar_attributes, offset_at(&self.exemplars, EXEMPLAR_ATTRIBUTES_END, self.exemplars.rows)
    )
    points.rows = row


cdef void metrics_cut(void* columns, size_t rows) noexcept nogil:
    cdef Metrics* self = <Metrics*>columns
    attributes_cut(&self.metadata, offset_at(&self.shared.records, METRIC_METADATA_END, rows))
    points_cut(self, rows)
    columns_cut_shared(&self.shared, rows)


cdef void add_numbers(Columns* shared, Table* numbers) noexcept nogil:
    add_table(shared, numbers, 1)
    table_width(numbers, 0, 8)


cdef void metrics_begin(Metrics* self) noexcept nogil:
    cdef Columns* shared = &self.shared
    cdef Table* records = &shared.records
    columns_begin(shared)
    shared.scan_record = scan_metric
    shared.cut = metrics_cut
    add_table(shared, records, POINT_COLUMNS)
    table_width(records, POINT_START, 8)
    table_width(records, POINT_TIME, 8)
    table_width(records, POINT_INT, 8)
    table_width(records, POINT_DOUBLE, 8)
    table_width(records, POINT_COUNT, 8)
    table_width(records, POINT_SUM, 8)
    table_width(records, POINT_MIN, 8)
    table_width(records, POINT_MAX, 8)
    table_width(records, POINT_ZERO_COUNT, 8)
    table_width(records, POINT_ZERO_THRESHOLD, 8)
    table_width(records, POINT_KIND, 1)
    table_width(records, POINT_HAS, 1)
    add_keywords(shared, &self.names, records, METRIC_NAME)
    add_keywords(shared, &self.types, records, METRIC_TYPE)
    add_keywords(shared, &self.descriptions, records, METRIC_DESCRIPTION)
    add_keywords(shared, &self.units, records, METRIC_UNIT)
    add_attributes(shared, &self.metadata)
    self.indexed_points = shared.indexed_count
    add_attributes(shared, &self.attributes)
    add_numbers(shared, &self.buckets)
    add_numbers(shared, &self.bounds)
    add_numbers(shared, &self.positive)
    add_numbers(shared, &self.negative)
    add_table(shared, &self.quantiles, QUANTILE_COLUMNS)
    table_width(&self.quantiles, QUANTILE, 8)
    table_width(&self.quantiles, QUANTILE_VALUE, 8)
    add_table(shared, &self.exemplars, EXEMPLAR_COLUMNS)
    table_width(&self.exemplars, EXEMPLAR_TIME, 8)
    table_width(&self.exemplars, EXEMPLAR_INT, 8)
    table_width(&self.exemplars, EXEMPLAR_DOUBLE, 8)
    table_width(&self.exemplars, EXEMPLAR_SPAN_ID, 8)
    table_width(&self.exemplars, EXEMPLAR_TRACE_ID, 16)
    table_width(&self.exemplars, EXEMPLAR_HAS, 1)
    add_attributes(shared, &self.exemplar_attributes)
