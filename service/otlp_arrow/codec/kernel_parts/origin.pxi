# What the three signals have in common: records in scopes in resources, and the columns of the latter
# two, which are the same for all rows of a scope. They are decoded once, into the first row; entities
# are then repeated by copying blocks (Arrow's `take` cost 0.85 us a span for that), attributes when somebody
# wants them so (``repeated.pxi``).
#
# Fields may come in any order, a resource after its spans. So the records are scanned when they are
# met, and the shared columns of their rows are filled at the end of the scope and of the resource.

cdef enum:
    MAX_REASONS = 8  # rejected records that a payload's outcome can name; at least MAX_REJECTION_REASONS
    RECORD_DEPTH = MAX_MESSAGE_DEPTH - 3  # left below a record in a scope in a resource in a request
    MAX_TABLES = 32
    MAX_TEXTS = 32
    MAX_KEYWORDS = 16


cdef struct Reason:
    uint64_t record
    uint64_t length  # of an id that has another length than it should
    uint32_t member  # the event, link or exemplar meant
    int32_t check  # a codec.rejection.Check


cdef struct Scan:
    # One payload on its way into the columns.
    Position limit  # its end
    uint64_t records  # met so far, rejected ones included
    uint64_t rejected
    Reason reasons[MAX_REASONS]
    uint64_t repeated_bytes
    uint64_t max_repeated_bytes
    bint too_large  # repeated_bytes is above the bound; goes on only to see whether it is well-formed
    int status  # in the end, with the rows appended
    size_t rows


cdef enum OriginColumn:
    SERVICE = 0
    RESOURCE_ATTRIBUTES_END = 1
    RESOURCE_DROPPED = 2
    RESOURCE_URL = 3
    ENTITIES_END = 4
    SCOPE_NAME = 5
    SCOPE_VERSION = 6
    SCOPE_ATTRIBUTES_END = 7
    SCOPE_DROPPED = 8
    SCOPE_URL = 9
    ORIGIN_COLUMNS = 10

cdef enum EntityColumn:
    ENTITY_URL_END = 0
    ENTITY_TYPE_END = 1
    ENTITY_ID_KEYS_END = 2
    ENTITY_DESCRIPTION_KEYS_END = 3
    ENTITY_COLUMNS

cdef enum OriginTag:
    GROUP_ORIGIN = 1 << 3 | LEN  # ResourceSpans.resource, ScopeSpans.scope and their like
    GROUP_MEMBERS = 2 << 3 | LEN  # ResourceSpans.scope_spans, ScopeSpans.spans
    GROUP_URL = 3 << 3 | LEN
    RESOURCE_TAG_ATTRIBUTES = 1 << 3 | LEN
    RESOURCE_TAG_DROPPED = 2 << 3 | VARINT
    RESOURCE_TAG_ENTITIES = 3 << 3 | LEN
    SCOPE_TAG_NAME = 1 << 3 | LEN
    SCOPE_TAG_VERSION = 2 << 3 | LEN
    SCOPE_TAG_ATTRIBUTES = 3 << 3 | LEN
    SCOPE_TAG_DROPPED = 4 << 3 | VARINT
    ENTITY_TAG_URL = 1 << 3 | LEN
    ENTITY_TAG_TYPE = 2 << 3 | LEN
    ENTITY_TAG_ID_KEYS = 3 << 3 | LEN
    ENTITY_TAG_DESCRIPTION_KEYS = 4 << 3 | LEN


cdef struct Words:
    # The strings of a list<utf8>.
    Table table
    Bytes text


cdef struct Indexed:
    # A dictionary-encoded column and its dictionary.
    Keywords* words
    Table* table
    int column


ctypedef bint (*ScanRecord)(void* columns, Scan* scan, Position at, Position end) noexcept nogil
ctypedef void (*CutColumns)(void* columns, size_t rows) noexcept nogil


cdef struct Columns:
    # The part of a signal's columns that all signals have. `records` has a row a record; its first
    # columns are those of OriginColumn.
    Table records
    Keywords services
    Repeated resource_attributes
    Keywords resource_urls
    Table entities
    Bytes entity_urls
    Bytes entity_types
    Words entity_id_keys
    Words entity_description_keys
    Keywords scope_names
    Keywords scope_versions
    Repeated scope_attributes
    Keywords scope_urls
    # The signal's own.
    ScanRecord scan_record
    CutColumns cut
    # All there is, for what is done to everything alike.
    Bounds bounds
    int table_count
    Table* tables[MAX_TABLES]
    int text_count
    Bytes* texts[MAX_TEXTS]
    int sparse_count
    Sparse* sparse[MAX_TEXTS]
    int values_count
    Values* values[MAX_TABLES]
    Repeated* repeated[2]
    int indexed_shared  # those from here on are the signal's own
    int indexed_count
    Indexed indexed[MAX_KEYWORDS]


cdef struct Marks:
    # How long each dictionary was: what a refused record adds is forgotten again.
    size_t count[MAX_KEYWORDS]


cdef inline void columns_mark(Columns* self, int first, Marks* marks) noexcept nogil:
    cdef int each
    for each in range(first, self.indexed_count):
        marks.count[each] = self.indexed[each].words.entries.rows


cdef void columns_forget(Columns* self, int first, Marks* marks) noexcept nogil:
    cdef int each
    for each in range(first, self.indexed_count):
        if self.indexed[each].words.entries.rows > marks.count[each]:
            keywords_cut(self.indexed[each].words, marks.count[each])


# -- what refuses a record -------------------------------------------------------------------------

cdef enum:  # codec.rejection.Check
    CHECK_SPAN_TRACE_ID_LENGTH = 0
    CHECK_SPAN_TRACE_ID_ZERO = 1
    CHECK_SPAN_ID_LENGTH = 2
    CHECK_SPAN_ID_ZERO = 3
    CHECK_PARENT_SPAN_ID_LENGTH = 4
    CHECK_START_TIME = 5
    CHECK_END_TIME = 6
    CHECK_EVENT_TIME = 7
    CHECK_LINK_TRACE_ID_LENGTH = 8
    CHECK_LINK_SPAN_ID_LENGTH = 9
    CHECK_TIME = 10
    CHECK_OBSERVED_TIME = 11
    CHECK_LOG_TRACE_ID_LENGTH = 12
    CHECK_LOG_SPAN_ID_LENGTH = 13
    CHECK_EXEMPLAR_TIME = 14
    CHECK_EXEMPLAR_TRACE_ID_LENGTH = 15
    CHECK_EXEMPLAR_SPAN_ID_LENGTH = 16
    PASSED = -1


cdef struct Id:
    Position data
    size_t length


cdef struct Verdict:
    # The first check that failed.
    int check
    size_t length
    size_t member


cdef inline Verdict passed() noexcept nogil:
    return Verdict(PASSED, 0, 0)


cdef inline void fail(Verdict* verdict, int check, size_t length, size_t member) noexcept nogil:
    if verdict.check == PASSED:
        verdict.check = check
        verdict.length = length
        verdict.member = member


cdef inline bint too_late(uint64_t unix_nano) noexcept nogil:
    return <int64_t>unix_nano < 0


cdef inline bint trace_id_is_zero(Position data) noexcept nogil:
    return load64(data) | load64(data + 8) == 0


cdef inline void store_id(uint8_t* to, Id* id, size_t size) noexcept nogil:
    """An id, or zeros, which stand for null, if it is absent."""
    if id.length == size:
        memcpy(to, id.data, size)
    else:
        memset(to, 0, size)


cdef inline void reject(Scan* scan, int check, size_t length, size_t member) noexcept nogil:
    cdef Reason* reason
    if scan.rejected < MAX_REASONS:
        reason = &scan.reasons[scan.rejected]
        reason.record = scan.records
        reason.check = check
        reason.length = length
        reason.member = <uint32_t>member
    scan.rejected += 1


# -- resource --------------------------------------------------------------------------------------

cdef struct Origin:
    # What a resource or scope holds beside its attributes, all occurrences taken together.
    uint64_t size
    int32_t dropped
    Position url
    size_t url_length
    Position name
    size_t name_length
    Position version
    size_t version_length
    int32_t before  # the key of the last attribute


cdef inline void origin_begin(Origin* self, Position nothing) noexcept nogil:
    memset(self, 0, sizeof(Origin))
    self.url = nothing
    self.name = nothing
    self.version = nothing
    self.before = NO_KEYWORD


cdef bint scan_resource_group(Columns* self, Scan* scan, Position at, Position end, int depth) noexcept nogil:
    """A ResourceSpans, ResourceMetrics or ResourceLogs."""
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef Origin resource
    cdef size_t first = self.records.rows
    cdef size_t attributes = self.resource_attributes.once.values.table.rows
    cdef size_t keys = self.resource_attributes.once.keys.entries.rows
    cdef size_t entities = self.entities.rows
    cdef size_t rows
    origin_begin(&resource, at)
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == GROUP_ORIGIN:
            at = read_length(at, end, &length)
            if at == NULL or not scan_resource(self, scan, &resource, at, at + length, depth - 1):
                return False
            at += length
        elif tag == GROUP_MEMBERS:
            at = read_length(at, end, &length)
            if at == NULL or not scan_scope_group(self, scan, at, at + length, depth - 1):
                return False
            at += length
        elif tag == GROUP_URL:
            at = read_text(at, end, &resource.url, &resource.url_length)
        else:
            at = skip_field(at, end, tag, depth)
        if at == NULL:
            return False
    rows = self.records.rows - first
    if rows > 0 and repeat_allowed(scan, rows, resource.size):
        return fill_resource(self, scan, &resource, first, rows, attributes, entities)
    attributes_cut(&self.resource_attributes.once, attributes)
    keywords_cut(&self.resource_attributes.once.keys, keys)
    entities_cut(self, entities)
    return True


cdef bint repeat_allowed(Scan* scan, size_t rows, uint64_t size) noexcept nogil:
    """Count ``size`` bytes repeated for each row against the bound."""
    scan.repeated_bytes += rows * size
    if scan.repeated_bytes > scan.max_repeated_bytes:
        scan.too_large = True
    return not scan.too_large


cdef bint holding_allowed(Columns* self, uint64_t more) noexcept nogil:
    """Whether the columns may take so many bytes more. Few bytes of a request can be many of columns (an
    attribute without key and value is two, and 33 in its row), so the bound on what is repeated is not enough."""
    if more > 0 and columns_nbytes(self) + more > self.bounds.max_held_bytes:
        self.bounds.fault = FULL
        return False
    return True


cdef uint64_t attributes_bytes(Attributes* self, size_t first) noexcept nogil:
    """What the attributes from ``first`` on take."""
    cdef Values* values = &self.values
    cdef size_t rows = values.table.rows - first
    return (
        rows * values.table.row_bytes
        + (values.text.length - offset_at(&values.table, VALUE_STR_END, first))
        + (values.octets.bytes.length if values.octets.filled > first else 0)
    )


cdef uint64_t entities_bytes(Columns* self, size_t first) noexcept nogil:
    """What the entities from ``first`` on take."""
    cdef Table* table = &self.entities
    cdef Words* ids = &self.entity_id_keys
    cdef Words* descriptions = &self.entity_description_keys
    cdef size_t first_id = offset_at(table, ENTITY_ID_KEYS_END, first)
    cdef size_t first_description = offset_at(table, ENTITY_DESCRIPTION_KEYS_END, first)
    return (
        (table.rows - first) * table.row_bytes
        + (self.entity_urls.length - offset_at(table, ENTITY_URL_END, first))
        + (self.entity_types.length - offset_at(table, ENTITY_TYPE_END, first))
        + (ids.table.rows - first_id) * ids.table.row_bytes
        + (ids.text.length - offset_at(&ids.table, 0, first_id))
        + (descriptions.table.rows - first_description) * descriptions.table.row_bytes
        + (descriptions.text.length - offset_at(&descriptions.table, 0, first_description))
    )


cdef bint scan_resource(
    Columns* self, Scan* scan, Origin* resource, Position at, Position end, int depth
) noexcept nogil:
    cdef uint32_t tag = 0
    cdef size_t length = 0
    resource.size += end - at
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == RESOURCE_TAG_ATTRIBUTES:
            at = read_length(at, end, &length)
            if at == NULL or not scan_attribute(
                &self.resource_attributes.once, &resource.before, at, at + length, depth - 1, scan.limit
            ):
                return False
            at += length
        elif tag == RESOURCE_TAG_DROPPED:
            at = read_int32(at, end, &resource.dropped)
        elif tag == RESOURCE_TAG_ENTITIES:
            at = read_length(at, end, &length)
            if at == NULL or not scan_entity(self, at, at + length, depth - 1):
                return False
            at += length
        else:
            at = skip_field(at, end, tag, depth)
        if at == NULL:
            return False
    return True


cdef bint fill_resource(
    Columns* self, Scan* scan, Origin* resource, size_t first, size_t rows, size_t attributes, size_t entities
) noexcept nogil:
    """The resource columns of ``rows`` rows; its attributes and entities stand in their tables once."""
    cdef Table* records = &self.records
    cdef size_t count = self.resource_attributes.once.values.table.rows - attributes
    cdef int32_t service = NO_KEYWORD
    if not holding_allowed(
        self, (attributes_bytes(&self.resource_attributes.once, attributes) + entities_bytes(self, entities)) * (rows - 1)
    ):
        return False
    if not find_service(self, attributes, &service, scan.limit):
        return False
    fill32(records, SERVICE, first, rows, service)
    fill32(records, RESOURCE_DROPPED, first, rows, resource.dropped)
    if not keyword_put(
        &self.resource_urls, i32(records, RESOURCE_URL), first, resource.url, resource.url_length, scan.limit
    ):
        return False
    fill32(records, RESOURCE_URL, first, rows, self.resource_urls.last)
    fill_ends(records, RESOURCE_ATTRIBUTES_END, first, rows, self.resource_attributes.rows, count)
    if not repeated_add(&self.resource_attributes, attributes, rows, False):
        return False
    count = self.entities.rows - entities
    fill_ends(records, ENTITIES_END, first, rows, entities, count)
    return count == 0 or entities_repeat(self, count, rows - 1)


cdef void fill_ends(Table* table, int column, size_t first, size_t rows, size_t start, size_t count) noexcept nogil:
    """The ends of ``rows`` lists of ``count`` members each; too long a sum is refused when they are copied."""
    cdef int32_t* ends = i32(table, column) + first + 1
    cdef size_t row
    for row in range(rows):
        ends[row] = <int32_t>(start + (row + 1) * count)


cdef const char* SERVICE_NAME = "service.name"


cdef bint find_service(Columns* self, size_t attributes, int32_t* service, Position limit) noexcept nogil:
    """The first attribute `service.name` that is a string."""
    cdef Values* values = &self.resource_attributes.once.values
    cdef Position name = <Position>SERVICE_NAME
    cdef int32_t key = keyword_lookup(&self.resource_attributes.once.keys, name, 12, hash_bytes(name, 12, HASH_KEY), name)
    cdef int32_t* ends = i32(&values.table, VALUE_STR_END)
    cdef size_t row
    if key == NO_KEYWORD:
        return True
    for row in range(attributes, values.table.rows):
        if i32(&values.table, VALUE_KEY)[row] == key and u8(&values.table, VALUE_TYPE)[row] == STR:
            service[0] = keyword(
                &self.services, NO_KEYWORD, values.text.data + ends[row], ends[row + 1] - ends[row],
                values.text.data + values.text.length,
            )
            return service[0] != NO_KEYWORD
    return True


# -- entities --------------------------------------------------------------------------------------

cdef bint scan_entity(Columns* self, Position at, Position end, int depth) noexcept nogil:
    cdef uint32_t tag = 0
    cdef Position text = at
    cdef size_t length = 0
    cdef Position url = at
    cdef Position type = at
    cdef size_t url_length = 0
    cdef size_t type_length = 0
    cdef Table* table = &self.entities
    cdef size_t row = table.rows
    if not table_reserve(table, 1):
        return False
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == ENTITY_TAG_URL:
            at = read_text(at, end, &url, &url_length)
        elif tag == ENTITY_TAG_TYPE:
            at = read_text(at, end, &type, &type_length)
        elif tag == ENTITY_TAG_ID_KEYS or tag == ENTITY_TAG_DESCRIPTION_KEYS:
            at = read_text(at, end, &text, &length)
            if at != NULL and not words_put(
                &self.entity_id_keys if tag == ENTITY_TAG_ID_KEYS else &self.entity_description_keys, text, length
            ):
                return False
        else:
            at = skip_field(at, end, tag, depth)
        if at == NULL:
            return False
    if not bytes_append(&self.entity_urls, url, url_length) or not bytes_append(&self.entity_types, type, type_length):
        return False
    i32(table, ENTITY_URL_END)[row + 1] = <int32_t>self.entity_urls.length
    i32(table, ENTITY_TYPE_END)[row + 1] = <int32_t>self.entity_types.length
    i32(table, ENTITY_ID_KEYS_END)[row + 1] = <int32_t>self.entity_id_keys.table.rows
    i32(table, ENTITY_DESCRIPTION_KEYS_END)[row + 1] = <int32_t>self.entity_description_keys.table.rows
    table.rows = row + 1
    return True


cdef bint words_put(Words* self, Position text, size_t length) noexcept nogil:
    if not table_reserve(&self.table, 1) or not bytes_append(&self.text, text, length):
        return False
    self.table.rows += 1
    i32(&self.table, 0)[self.table.rows] = <int32_t>self.text.length
    return True


cdef void words_cut(Words* self, size_t rows) noexcept nogil:
    self.table.rows = rows
    self.text.length = offset_at(&self.table, 0, rows)


cdef bint words_repeat(Words* self, size_t count, size_t times) noexcept nogil:
    cdef size_t first = self.table.rows - count
    if count == 0:
        return True
    if <uint64_t>count * times > self.table.bounds.max_offset:
        self.table.bounds.fault = FULL
        return False
    if not table_reserve(&self.table, count * times):
        return False
    if not bytes_repeat(&self.text, self.text.length - i32(&self.table, 0)[first], times):
        return False
    repeat_offsets(i32(&self.table, 0) + first, count, times)
    self.table.rows += count * times
    return True


cdef void entities_cut(Columns* self, size_t rows) noexcept nogil:
    cdef Table* table = &self.entities
    table.rows = rows
    self.entity_urls.length = offset_at(table, ENTITY_URL_END, rows)
    self.entity_types.length = offset_at(table, ENTITY_TYPE_END, rows)
    words_cut(&self.entity_id_keys, offset_at(table, ENTITY_ID_KEYS_END, rows))
    words_cut(&self.entity_description_keys, offset_at(table, ENTITY_DESCRIPTION_KEYS_END, rows))


cdef bint entities_repeat(Columns* self, size_t count, size_t times) noexcept nogil:
    cdef Table* table = &self.entities
    cdef size_t first = table.rows - count
    cdef int column
    if <uint64_t>count * times > table.bounds.max_offset:
        table.bounds.fault = FULL
        return False
    if not table_reserve(table, count * times):
        return False
    if not (
        bytes_repeat(&self.entity_urls, self.entity_urls.length - i32(table, ENTITY_URL_END)[first], times)
        and bytes_repeat(&self.entity_types, self.entity_types.length - i32(table, ENTITY_TYPE_END)[first], times)
        and words_repeat(
            &self.entity_id_keys, self.entity_id_keys.table.rows - i32(table, ENTITY_ID_KEYS_END)[first], times
        )
        and words_repeat(
            &self.entity_description_keys,
            self.entity_description_keys.table.rows - i32(table, ENTITY_DESCRIPTION_KEYS_END)[first],
            times,
        )
    ):
        return False
    for column in range(<int>ENTITY_COLUMNS):
        repeat_offsets(i32(table, column) + first, count, times)
    table.rows += count * times
    return True


# -- scope -----------------------------------------------------------------------------------------

cdef bint scan_scope_group(Columns* self, Scan* scan, Position at, Position end, int depth) noexcept nogil:
    """A ScopeSpans, ScopeMetrics or ScopeLogs."""
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef Origin scope
    cdef size_t first = self.records.rows
    cdef size_t attributes = self.scope_attributes.once.values.table.rows
    cdef size_t keys = self.scope_attributes.once.keys.entries.rows
    cdef size_t rows
    origin_begin(&scope, at)
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if likely(tag == GROUP_MEMBERS):
            at = read_length(at, end, &length)
            if at == NULL or not self.scan_record(self, scan, at, at + length):
                return False
            at += length
        elif tag == GROUP_ORIGIN:
            at = read_length(at, end, &length)
            if at == NULL or not scan_scope(self, scan, &scope, at, at + length, depth - 1):
                return False
            at += length
        elif tag == GROUP_URL:
            at = read_text(at, end, &scope.url, &scope.url_length)
        else:
            at = skip_field(at, end, tag, depth)
        if at == NULL:
            return False
    rows = self.records.rows - first
    if rows > 0 and repeat_allowed(scan, rows, scope.size):
        return fill_scope(self, scan, &scope, first, rows, attributes)
    attributes_cut(&self.scope_attributes.once, attributes)
    keywords_cut(&self.scope_attributes.once.keys, keys)
    return True


cdef bint scan_scope(
    Columns* self, Scan* scan, Origin* scope, Position at, Position end, int depth
) noexcept nogil:
    cdef uint32_t tag = 0
    cdef size_t length = 0
    scope.size += end - at
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == SCOPE_TAG_NAME:
            at = read_text(at, end, &scope.name, &scope.name_length)
        elif tag == SCOPE_TAG_VERSION:
            at = read_text(at, end, &scope.version, &scope.version_length)
        elif tag == SCOPE_TAG_ATTRIBUTES:
            at = read_length(at, end, &length)
            if at == NULL or not scan_attribute(
                &self.scope_attributes.once, &scope.before, at, at + length, depth - 1, scan.limit
            ):
                return False
            at += length
        elif tag == SCOPE_TAG_DROPPED:
            at = read_int32(at, end, &scope.dropped)
        else:
            at = skip_field(at, end, tag, depth)
        if at == NULL:
            return False
    return True


cdef bint fill_scope(
    Columns* self, Scan* scan, Origin* scope, size_t first, size_t rows, size_t attributes
) noexcept nogil:
    cdef Table* records = &self.records
    cdef size_t count = self.scope_attributes.once.values.table.rows - attributes
    if not (
        holding_allowed(self, attributes_bytes(&self.scope_attributes.once, attributes) * (rows - 1))
        and keyword_put(&self.scope_names, i32(records, SCOPE_NAME), first, scope.name, scope.name_length, scan.limit)
        and keyword_put(
            &self.scope_versions, i32(records, SCOPE_VERSION), first, scope.version, scope.version_length, scan.limit
        )
        and keyword_put(&self.scope_urls, i32(records, SCOPE_URL), first, scope.url, scope.url_length, scan.limit)
    ):
        return False
    fill32(records, SCOPE_NAME, first, rows, self.scope_names.last)
    fill32(records, SCOPE_VERSION, first, rows, self.scope_versions.last)
    fill32(records, SCOPE_URL, first, rows, self.scope_urls.last)
    fill32(records, SCOPE_DROPPED, first, rows, scope.dropped)
    fill_ends(records, SCOPE_ATTRIBUTES_END, first, rows, self.scope_attributes.rows, count)
    return repeated_add(&self.scope_attributes, attributes, rows, False)


# -- a payload -------------------------------------------------------------------------------------

cdef enum Status:
    APPENDED = 0
    MALFORMED = 1
    TOO_LARGE_TO_REPEAT = 2
    TOO_LARGE_TO_HOLD = 3
    NO_MEMORY = 4


cdef void scan_payload(Columns* self, Scan* scan, Position at, size_t size) noexcept nogil:
    """An Export…ServiceRequest: all of its rows, or none."""
    cdef size_t first = self.records.rows
    cdef bint well_formed
    cdef Marks marks
    columns_mark(self, 0, &marks)
    self.bounds.fault = NO_FAULT
    scan.limit = at + size
    well_formed = size <= INT32_MAX and scan_groups(self, scan, at, at + size, MAX_MESSAGE_DEPTH)
    if self.bounds.fault != NO_FAULT:
        scan.status = NO_MEMORY if self.bounds.fault == OUT_OF_MEMORY else TOO_LARGE_TO_HOLD
    elif not well_formed:
        scan.status = MALFORMED
    elif scan.too_large:
        scan.status = TOO_LARGE_TO_REPEAT
    else:
        scan.status = APPENDED
        scan.rows = self.records.rows - first
        return
    self.cut(self, first)
    columns_forget(self, 0, &marks)
    scan.rejected = 0


cdef bint scan_groups(Columns* self, Scan* scan, Position at, Position end, int depth) noexcept nogil:
    cdef uint32_t tag = 0
    cdef size_t length = 0
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == (1 << 3 | LEN):
            at = read_length(at, end, &length)
            if at == NULL or not scan_resource_group(self, scan, at, at + length, depth - 1):
                return False
            at += length
        else:
            at = skip_field(at, end, tag, depth)
            if at == NULL:
                return False
    return True


# -- all columns alike -----------------------------------------------------------------------------

cdef void columns_truncate(Columns* self, size_t rows) noexcept nogil:
    """Forget rows, and the strings that only they had."""
    cdef Indexed* each
    cdef int32_t* column
    cdef int32_t last
    cdef size_t row
    cdef int index
    self.cut(self, rows)
    for index in range(self.indexed_count):
        each = &self.indexed[index]
        column = i32(each.table, each.column)
        last = NO_KEYWORD
        for row in range(each.table.rows):
            last = max(last, column[row])
        keywords_cut(each.words, <size_t>(last + 1))


cdef size_t columns_nbytes(Columns* self) noexcept nogil:
    cdef size_t total = 0
    cdef int each
    for each in range(self.table_count):
        total += self.tables[each].rows * self.tables[each].row_bytes
    for each in range(self.text_count):
        total += self.texts[each].length
    for each in range(2):
        total += repeated_more_bytes(self.repeated[each])
    return total


cdef void columns_clear(Columns* self) noexcept nogil:
    cdef bint idle = self.records.rows == 0
    cdef int each
    for each in range(self.values_count):
        values_zero(self.values[each], 0)
    for each in range(self.sparse_count):
        self.sparse[each].filled = 0
    for each in range(self.indexed_count):
        keywords_clear(self.indexed[each].words, idle)
    for each in range(self.table_count):
        table_clear(self.tables[each], idle)
    for each in range(self.text_count):
        bytes_clear(self.texts[each], idle)
    for each in range(2):
        repeated_clear(self.repeated[each], idle)


cdef void columns_free(Columns* self) noexcept nogil:
    cdef int each
    for each in range(self.indexed_count):
        free(self.indexed[each].words.slots)
        self.indexed[each].words.slots = NULL
    for each in range(self.table_count):
        table_free(self.tables[each])
    for each in range(self.text_count):
        bytes_free(self.texts[each])
    for each in range(2):
        repeated_free(self.repeated[each])


# -- setting up ------------------------------------------------------------------------------------

cdef void add_table(Columns* self, Table* table, int columns) noexcept nogil:
    """A table of columns of four bytes a row (offsets, indices, small numbers), else ``table_width`` says."""
    table_widen(table, columns)
    if table.bounds == NULL:
        table.bounds = &self.bounds
        self.tables[self.table_count] = table
        self.table_count += 1


cdef void add_text(Columns* self, Bytes* text) noexcept nogil:
    text.bounds = &self.bounds
    self.texts[self.text_count] = text
    self.text_count += 1


cdef void add_sparse(Columns* self, Sparse* sparse, Table* table, int column) noexcept nogil:
    add_text(self, &sparse.bytes)
    sparse.table = table
    sparse.column = column
    self.sparse[self.sparse_count] = sparse
    self.sparse_count += 1


cdef void add_keywords(Columns* self, Keywords* words, Table* table, int column) noexcept nogil:
    add_table(self, &words.entries, KEYWORD_COLUMNS)
    add_text(self, &words.text)
    words.last = NO_KEYWORD
    self.indexed[self.indexed_count] = Indexed(words, table, column)
    self.indexed_count += 1


cdef void values_shape(Table* table) noexcept nogil:
    table_widen(table, VALUE_COLUMNS)
    table_width(table, VALUE_TYPE, 1)
    table_width(table, VALUE_INT, 8)
    table_width(table, VALUE_DOUBLE, 8)
    table.zeroed = VALUE_INT


cdef void add_values(Columns* self, Values* values) noexcept nogil:
    add_table(self, &values.table, VALUE_COLUMNS)
    values_shape(&values.table)
    add_text(self, &values.text)
    add_sparse(self, &values.octets, &values.table, VALUE_BYTES_END)
    self.values[self.values_count] = values
    self.values_count += 1


cdef void add_attributes(Columns* self, Attributes* attributes) noexcept nogil:
    add_values(self, &attributes.values)
    add_keywords(self, &attributes.keys, &attributes.values.table, VALUE_KEY)


cdef void add_repeated(Columns* self, int which, Repeated* repeated) noexcept nogil:
    cdef Values* spread = &repeated.spread
    cdef int each
    add_attributes(self, &repeated.once)
    self.repeated[which] = repeated
    values_shape(&spread.table)
    spread.octets.table = &spread.table
    spread.octets.column = VALUE_BYTES_END
    spread.table.bounds = spread.text.bounds = spread.octets.bytes.bounds = repeated.runs.bounds = &self.bounds
    for each in range(4):
        repeated.told[each].bounds = &self.bounds


cdef void add_words(Columns* self, Words* words) noexcept nogil:
    add_table(self, &words.table, 1)
    add_text(self, &words.text)


cdef void columns_begin(Columns* self) noexcept nogil:
    """The shared columns; ``self`` is all zero."""
    add_table(self, &self.records, ORIGIN_COLUMNS)
    add_keywords(self, &self.services, &self.records, SERVICE)
    add_repeated(self, 0, &self.resource_attributes)
    add_keywords(self, &self.resource_urls, &self.records, RESOURCE_URL)
    add_table(self, &self.entities, ENTITY_COLUMNS)
    add_text(self, &self.entity_urls)
    add_text(self, &self.entity_types)
    add_words(self, &self.entity_id_keys)
    add_words(self, &self.entity_description_keys)
    add_keywords(self, &self.scope_names, &self.records, SCOPE_NAME)
    add_keywords(self, &self.scope_versions, &self.records, SCOPE_VERSION)
    add_repeated(self, 1, &self.scope_attributes)
    add_keywords(self, &self.scope_urls, &self.records, SCOPE_URL)
    self.indexed_shared = self.indexed_count


cdef void columns_cut_shared(Columns* self, size_t rows) noexcept nogil:
    cdef Table* records = &self.records
    repeated_cut(&self.resource_attributes, offset_at(records, RESOURCE_ATTRIBUTES_END, rows))
    entities_cut(self, offset_at(records, ENTITIES_END, rows))
    repeated_cut(&self.scope_attributes, offset_at(records, SCOPE_ATTRIBUTES_END, rows))
    records.rows = rows
