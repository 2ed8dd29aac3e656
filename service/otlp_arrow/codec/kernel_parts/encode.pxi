# The way back: record batches into Export…ServiceRequest bytes.
#
# Rows are first sorted into groups of equal resource, scope and (for data points) metric, in the order
# first seen; then the groups are written, last first (see `writer.pxi`).
#
# Only batches in the shape that the decoder gives are taken. For anything else, wrong or merely unusual
# (a null where none should be, JSON text with spaces), functions here return False, and the caller asks
# the reference codec, which handles it or says what is wrong.

# -- attributes ------------------------------------------------------------------------------------

cdef bint put_value(Writer* self, ValuesView* values, size_t row, Bytes* scratch) noexcept nogil:
    """The content of an AnyValue."""
    cdef int type = values.type.data[values.type.offset + row]
    cdef Id found
    if type == STR:
        return view_valid(&values.text, row) and view_text(&values.text, row, &found) and put_text(
            self, ANY_STRING, &found
        )
    if type == INT:
        if not view_valid(&values.integer, row) or not writer_reserve(self, FIELD_ROOM):
            return False
        put_varint(self, view64(&values.integer, row))
        put_byte(self, ANY_INT)
        return True
    if type == DOUBLE:
        return view_valid(&values.real, row) and put_fixed64(self, ANY_DOUBLE, view64(&values.real, row))
    if type == BOOL:
        if not view_valid(&values.truth, row) or not writer_reserve(self, FIELD_ROOM):
            return False
        put_byte(self, view_bool(&values.truth, row))
        put_byte(self, ANY_BOOL)
        return True
    if type == BYTES:
        return view_valid(&values.octets, row) and view_text(&values.octets, row, &found) and put_bytes(
            self, ANY_BYTES, found.data, found.length
        )
    if type == MAP or type == SLICE:
        if not view_valid(&values.text, row) or not view_text(&values.text, row, &found):
            return False
        scratch.length = 0
        return (
            is_utf8(found.data, found.length)
            and json_to_value(scratch, found.data, found.data + found.length, type)
            and put_raw(self, scratch.data, scratch.length)
        )
    return type == EMPTY


cdef bint put_attributes(
    Writer* self, AttributesView* attributes, size_t row, uint32_t tag, Bytes* scratch
) noexcept nogil:
    cdef Range range
    cdef size_t each, end
    cdef Id key
    if unlikely(not view_range(&attributes.lists, row, attributes.values.type.length, &range)):
        return False
    each = range.end
    while each > range.first:
        each -= 1
        end = writer_size(self)
        if unlikely(
            not put_value(self, &attributes.values, each, scratch)
            or not put_end(self, KEY_VALUE_VALUE, end)
            or not view_keyword(&attributes.keys, each, &key)
            or not put_text_if(self, KEY_VALUE_KEY, &key)
            or not put_end(self, tag, end)
        ):
            return False
    return True


cdef bint same_attributes(AttributesView* self, size_t row, size_t other) noexcept nogil:
    """Whether two rows have equal attributes; ``False`` also if they cannot be read."""
    cdef Range mine, theirs
    cdef size_t i, j
    cdef ValuesView* values = &self.values
    cdef int type
    cdef Id a, b
    cdef size_t bound = values.type.length
    if not view_range(&self.lists, row, bound, &mine) or not view_range(&self.lists, other, bound, &theirs):
        return False
    if mine.end - mine.first != theirs.end - theirs.first:
        return False
    j = theirs.first
    for i in range(mine.first, mine.end):
        type = values.type.data[values.type.offset + i]
        if type != values.type.data[values.type.offset + j]:
            return False
        if view32(&self.keys.indices, i) != view32(&self.keys.indices, j):
            return False
        if type == STR or type == MAP or type == SLICE:
            if not (view_valid(&values.text, i) and view_valid(&values.text, j)):
                return False
            if not (view_text(&values.text, i, &a) and view_text(&values.text, j, &b)):
                return False
            if a.length != b.length or a.length > 0 and memcmp(a.data, b.data, a.length) != 0:
                return False
        elif type == INT:
            if not (view_valid(&values.integer, i) and view_valid(&values.integer, j)):
                return False
            if view64(&values.integer, i) != view64(&values.integer, j):
                return False
        elif type != EMPTY:  # rare among what rows share: the encoded bytes will tell
            return False
        j += 1
    return True


# -- fields of all signals --------------------------------------------------------------------------

cdef inline bint put_time(Writer* out, uint32_t tag, View* times, size_t row) noexcept nogil:
    """A time that may be null; one before 1970 is unusual."""
    cdef uint64_t time
    if not view_valid(times, row):
        return True
    time = view64(times, row)
    return likely(<int64_t>time >= 0) and put_fixed64_if(out, tag, time)


cdef inline bint put_id_if(Writer* out, uint32_t tag, View* ids, size_t row, size_t size) noexcept nogil:
    return not view_valid(ids, row) or put_bytes(out, tag, ids.data + (ids.offset + row) * size, size)


cdef inline bint put_text_view(Writer* out, uint32_t tag, View* texts, size_t row) noexcept nogil:
    """A text that may be null."""
    cdef Id text
    return not view_valid(texts, row) or view_text(texts, row, &text) and put_text_if(out, tag, &text)


cdef inline bint put_keyword(Writer* out, uint32_t tag, KeywordView* words, size_t row) noexcept nogil:
    cdef Id text
    return view_keyword(words, row, &text) and put_text_if(out, tag, &text)


cdef inline bint put_uint32(Writer* out, uint32_t tag, View* numbers, size_t row) noexcept nogil:
    return put_number(out, tag, <uint32_t>view32(numbers, row))


# -- groups ----------------------------------------------------------------------------------------

cdef struct Groups:
    # Distinct byte strings in the order first seen, and the members that have them.
    Keywords keys
    Bounds bounds
    uint32_t* of  # the group of each member
    uint32_t* sorted  # the members, group after group, in their order
    size_t* starts  # where each group begins there; one more than groups


cdef bint groups_begin(Groups* self, size_t members) noexcept nogil:
    table_widen(&self.keys.entries, KEYWORD_COLUMNS)
    self.bounds.max_offset = INT32_MAX - 1
    self.keys.entries.bounds = &self.bounds
    self.keys.text.bounds = &self.bounds
    self.of = <uint32_t*>malloc(members * sizeof(uint32_t))
    return self.of != NULL


cdef void groups_end(Groups* self) noexcept nogil:
    table_free(&self.keys.entries)
    bytes_free(&self.keys.text)
    free(self.keys.slots)
    free(self.of)
    free(self.sorted)
    free(self.starts)


cdef inline size_t groups_count(Groups* self) noexcept nogil:
    return self.keys.entries.rows


cdef int32_t groups_find(Groups* self, Bytes* key) noexcept nogil:
    """The group of a key, a new one if it is new."""
    cdef uint32_t hashed = hash_bytes(key.data, key.length, HASH_KEY)
    cdef int32_t group = keyword_lookup(&self.keys, key.data, key.length, hashed, key.data)
    return group if group != NO_KEYWORD else keyword_add(&self.keys, key.data, key.length, hashed)


cdef Id groups_key(Groups* self, size_t group) noexcept nogil:
    cdef int32_t* ends = i32(&self.keys.entries, KEYWORD_END) + group
    return Id(self.keys.text.data + ends[0], <size_t>(ends[1] - ends[0]))


cdef bint groups_sort(Groups* self, size_t members) noexcept nogil:
    """Put the members of each group together, by counting."""
    cdef size_t groups = groups_count(self)
    cdef size_t each
    self.starts = <size_t*>calloc(groups + 2, sizeof(size_t))
    self.sorted = <uint32_t*>malloc(members * sizeof(uint32_t))
    if self.starts == NULL or self.sorted == NULL:
        return False
    for each in range(members):
        self.starts[self.of[each] + 2] += 1
    for each in range(groups):
        self.starts[each + 2] += self.starts[each + 1]
    for each in range(members):  # starts[g + 1] moves from the start of g to its end
        self.sorted[self.starts[self.of[each] + 1]] = <uint32_t>each
        self.starts[self.of[each] + 1] += 1
    return True


# -- a request -------------------------------------------------------------------------------------

cdef struct OriginView:
    AttributesView resource_attributes
    View resource_dropped
    KeywordView resource_url
    View entities
    View entity_url
    View entity_type
    View entity_id_keys
    View entity_id_key
    View entity_description_keys
    View entity_description_key
    KeywordView scope_name
    KeywordView scope_version
    AttributesView scope_attributes
    View scope_dropped
    KeywordView scope_url


cdef bint see_origin(OriginView* self, ArrowArray** columns) noexcept nogil:
    """The last columns of every schema; ``service_name`` comes back with the attributes."""
    return (
        see_attributes(&self.resource_attributes, columns[1], whole(columns[1]))
        and see(&self.resource_dropped, columns[2], whole(columns[2]), REQUIRED)
        and see_keyword(&self.resource_url, columns[3], whole(columns[3]))
        and see_entities(self, columns[4])
        and see_keyword(&self.scope_name, columns[5], whole(columns[5]))
        and see_keyword(&self.scope_version, columns[6], whole(columns[6]))
        and see_attributes(&self.scope_attributes, columns[7], whole(columns[7]))
        and see(&self.scope_dropped, columns[8], whole(columns[8]), REQUIRED)
        and see_keyword(&self.scope_url, columns[9], whole(columns[9]))
    )


cdef bint see_entities(OriginView* self, ArrowArray* array) noexcept nogil:
    cdef ArrowArray* entities = array.children[0]
    cdef Extent inside
    return (
        see(&self.entities, array, whole(array), REQUIRED)
        and see_struct(entities, whole(entities), &inside)
        and see_text(&self.entity_url, entities.children[0], inside, REQUIRED)
        and see_text(&self.entity_type, entities.children[1], inside, REQUIRED)
        and see_words(&self.entity_id_keys, &self.entity_id_key, entities.children[2], inside)
        and see_words(&self.entity_description_keys, &self.entity_description_key, entities.children[3], inside)
    )


cdef struct MetricView:
    KeywordView name
    KeywordView type
    KeywordView description
    KeywordView unit
    AttributesView metadata
    View temporality
    View is_monotonic
    View start
    View time
    View int_value
    View double_value
    AttributesView attributes
    View flags
    View count
    View sum
    View min
    View max
    View buckets
    View bucket
    View bounds
    View bound
    View scale
    View zero_count
    View zero_threshold
    View positive_offset
    View positive
    View positive_count
    View negative_offset
    View negative
    View negative_count
    View quantiles
    View quantile
    View quantile_value
    View exemplars
    View exemplar_time
    View exemplar_int
    View exemplar_double
    View exemplar_trace_id
    View exemplar_span_id
    AttributesView exemplar_attributes


ctypedef bint (*WriteRecord)(Encoding* encoding, size_t record) noexcept nogil


cdef struct Encoding:
    # A request under construction. `columns` points to the signal's own views.
    size_t rows
    OriginView origin
    void* columns
    WriteRecord write_record  # a row, or a metric group
    MetricView* metrics  # NULL for other signals
    Writer out
    Writer message  # for the messages that make up a group's key
    Bytes key
    Bytes scratch
    Bounds bounds
    Groups resource_groups  # of scope groups
    Groups scope_groups  # of rows, or of metric groups
    Groups metric_groups  # of rows


cdef bint encode_request(Encoding* self) noexcept nogil:
    """All of ``out``. ``False``: no memory, or something unusual."""
    self.bounds.max_offset = INT32_MAX - 1
    self.key.bounds = &self.bounds
    self.scratch.bounds = &self.bounds
    if self.rows == 0:
        return True
    if not (
        groups_begin(&self.resource_groups, self.rows)
        and groups_begin(&self.scope_groups, self.rows)
        and groups_begin(&self.metric_groups, self.rows)
    ):
        self.bounds.fault = OUT_OF_MEMORY
        return False
    return group_rows(self) and put_resource_groups(self)


cdef void encoding_end(Encoding* self) noexcept nogil:
    free(self.out.data)
    free(self.message.data)
    bytes_free(&self.key)
    bytes_free(&self.scratch)
    groups_end(&self.resource_groups)
    groups_end(&self.scope_groups)
    groups_end(&self.metric_groups)


cdef bint group_rows(Encoding* self) noexcept nogil:
    """Find the groups of all rows. Most rows are in those of the row before them, which is seen without encoding."""
    cdef int32_t resource = 0
    cdef int32_t scope = 0
    cdef int32_t metric = 0
    cdef bint same = False
    cdef size_t row, members
    for row in range(self.rows):
        same = row > 0 and same_resource(&self.origin, row, row - 1)
        if not same:
            resource = find_resource(self, row)
        if not same or not same_scope(&self.origin, row, row - 1):
            same = False
            scope = find_scope(self, row, resource)
        if resource == NO_KEYWORD or scope == NO_KEYWORD:
            return False
        self.resource_groups.of[scope] = <uint32_t>resource
        if self.metrics == NULL:
            self.scope_groups.of[row] = <uint32_t>scope
            continue
        if not same or not same_metric(self.metrics, row, row - 1):
            metric = find_metric(self, row, scope)
            if metric == NO_KEYWORD:
                return False
        self.scope_groups.of[metric] = <uint32_t>scope
        self.metric_groups.of[row] = <uint32_t>metric
    members = self.rows
    if self.metrics != NULL:
        if not groups_sort(&self.metric_groups, members):
            return False
        members = groups_count(&self.metric_groups)
    return groups_sort(&self.scope_groups, members) and groups_sort(
        &self.resource_groups, groups_count(&self.scope_groups)
    )


cdef bint same_resource(OriginView* self, size_t row, size_t other) noexcept nogil:
    cdef Range entities
    return (
        view32(&self.resource_dropped, row) == view32(&self.resource_dropped, other)
        and view32(&self.resource_url.indices, row) == view32(&self.resource_url.indices, other)
        # Those with entities are rare: their encoded bytes will tell.
        and view_range(&self.entities, row, self.entity_url.length, &entities)
        and entities.first == entities.end
        and view_range(&self.entities, other, self.entity_url.length, &entities)
        and entities.first == entities.end
        and same_attributes(&self.resource_attributes, row, other)
    )


cdef bint same_scope(OriginView* self, size_t row, size_t other) noexcept nogil:
    return (
        view32(&self.scope_name.indices, row) == view32(&self.scope_name.indices, other)
        and view32(&self.scope_version.indices, row) == view32(&self.scope_version.indices, other)
        and view32(&self.scope_dropped, row) == view32(&self.scope_dropped, other)
        and view32(&self.scope_url.indices, row) == view32(&self.scope_url.indices, other)
        and same_attributes(&self.scope_attributes, row, other)
    )


cdef bint key_add(Bytes* key, const void* data, size_t size) noexcept nogil:
    """A part of a key, behind its size."""
    cdef uint32_t short_size = <uint32_t>size
    return bytes_append(key, &short_size, 4) and bytes_append(key, data, size)


cdef Id key_take(Id* key) noexcept nogil:
    """The first part of what is left of a key."""
    cdef Id part = Id(key.data + 4, load32(key.data))
    key.data += 4 + part.length
    key.length -= 4 + part.length
    return part


cdef int32_t find_resource(Encoding* self, size_t row) noexcept nogil:
    cdef Id url
    self.key.length = 0
    if not (
        put_resource(self, row)
        and view_keyword(&self.origin.resource_url, row, &url)
        and key_add(&self.key, url.data, url.length)
        and key_add(&self.key, self.message.data + self.message.at, writer_size(&self.message))
    ):
        return NO_KEYWORD
    return groups_find(&self.resource_groups, &self.key)


cdef int32_t find_scope(Encoding* self, size_t row, int32_t resource) noexcept nogil:
    cdef Id url
    self.key.length = 0
    if not (
        put_scope(self, row)
        and key_add(&self.key, &resource, sizeof(resource))
        and view_keyword(&self.origin.scope_url, row, &url)
        and key_add(&self.key, url.data, url.length)
        and key_add(&self.key, self.message.data + self.message.at, writer_size(&self.message))
    ):
        return NO_KEYWORD
    return groups_find(&self.scope_groups, &self.key)


cdef bint put_resource(Encoding* self, size_t row) noexcept nogil:
    cdef OriginView* origin = &self.origin
    cdef Writer* out = &self.message
    cdef Range entities
    cdef size_t each, end
    cdef Id url, type
    out.at = out.capacity
    if not view_range(&origin.entities, row, origin.entity_url.length, &entities):
        return False
    each = entities.end
    while each > entities.first:
        each -= 1
        end = writer_size(out)
        if not (
            put_words(
                out, ENTITY_TAG_DESCRIPTION_KEYS, &origin.entity_description_keys, &origin.entity_description_key, each
            )
            and put_words(out, ENTITY_TAG_ID_KEYS, &origin.entity_id_keys, &origin.entity_id_key, each)
            and view_text(&origin.entity_type, each, &type)
            and put_text_if(out, ENTITY_TAG_TYPE, &type)
            and view_text(&origin.entity_url, each, &url)
            and put_text_if(out, ENTITY_TAG_URL, &url)
            and put_end(out, RESOURCE_TAG_ENTITIES, end)
        ):
            return False
    return put_number(
        out, RESOURCE_TAG_DROPPED, <uint32_t>view32(&origin.resource_dropped, row)
    ) and put_attributes(out, &origin.resource_attributes, row, RESOURCE_TAG_ATTRIBUTES, &self.scratch)


cdef bint put_words(Writer* out, uint32_t tag, View* lists, View* words, size_t row) noexcept nogil:
    cdef Range range
    cdef size_t each
    cdef Id word
    if not view_range(lists, row, words.length, &range):
        return False
    each = range.end
    while each > range.first:
        each -= 1
        if not view_text(words, each, &word) or not put_text(out, tag, &word):
            return False
    return True


cdef bint put_scope(Encoding* self, size_t row) noexcept nogil:
    cdef OriginView* origin = &self.origin
    cdef Writer* out = &self.message
    cdef Id name, version
    out.at = out.capacity
    return (
        put_number(out, SCOPE_TAG_DROPPED, <uint32_t>view32(&origin.scope_dropped, row))
        and put_attributes(out, &origin.scope_attributes, row, SCOPE_TAG_ATTRIBUTES, &self.scratch)
        and view_keyword(&origin.scope_version, row, &version)
        and put_text_if(out, SCOPE_TAG_VERSION, &version)
        and view_keyword(&origin.scope_name, row, &name)
        and put_text_if(out, SCOPE_TAG_NAME, &name)
    )


cdef bint put_resource_groups(Encoding* self) noexcept nogil:
    cdef Groups* groups = &self.resource_groups
    cdef Writer* out = &self.out
    cdef size_t group = groups_count(groups)
    cdef size_t each, end
    cdef Id key, url, message
    while group > 0:
        group -= 1
        key = groups_key(groups, group)
        url = key_take(&key)
        message = key_take(&key)
        end = writer_size(out)
        if not put_text_if(out, GROUP_URL, &url):
            return False
        each = groups.starts[group + 1]
        while each > groups.starts[group]:
            each -= 1
            if not put_scope_group(self, groups.sorted[each]):
                return False
        if not put_bytes(out, GROUP_ORIGIN, message.data, message.length) or not put_end(out, 1 << 3 | LEN, end):
            return False
    return True


cdef bint put_scope_group(Encoding* self, size_t group) noexcept nogil:
    cdef Groups* groups = &self.scope_groups
    cdef Writer* out = &self.out
    cdef size_t each
    cdef size_t end = writer_size(out)
    cdef size_t record_end
    cdef Id key = groups_key(groups, group)
    cdef Id url, message
    key_take(&key)  # the resource group
    url = key_take(&key)
    message = key_take(&key)
    if not put_text_if(out, GROUP_URL, &url):
        return False
    each = groups.starts[group + 1]
    while each > groups.starts[group]:
        each -= 1
        record_end = writer_size(out)
        if not self.write_record(self, groups.sorted[each]) or not put_end(out, GROUP_MEMBERS, record_end):
            return False
    return put_bytes(out, GROUP_ORIGIN, message.data, message.length) and put_end(out, GROUP_MEMBERS, end)
