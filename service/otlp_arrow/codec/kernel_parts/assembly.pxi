# The face towards Python: builders, and their buffers as Arrow wants them.

cdef uint8_t NOTHING[64]  # what a column without any memory shows: one offset, zero

cdef enum:
    MAX_DERIVED = 96
    SCRATCHES = MAX_GATHER_BITMAPS + 3  # of a gathering: bitmaps, bytes, json, block


cdef enum Nulls:
    NEVER
    ZERO  # eight bytes of zero are null
    ZERO_PAIR  # sixteen


cdef struct Gathered:
    # A message that is to be gathered, and what became of it.
    Gathering gathering
    Dictionary* dictionaries[MAX_KEYWORDS]
    Py_buffer body
    bint readable
    int status
    size_t rows


cdef int gather_all(Columns* columns, Gathered* messages, size_t count, GatherRecords gather, Bounds* scratch) noexcept nogil:
    """One after the other, until memory runs out; its ``Status`` then."""
    cdef size_t each, rows
    for each in range(count):
        if messages[each].readable:
            rows = columns.records.rows
            messages[each].status = gather_batch(columns, &messages[each].gathering, gather)
            messages[each].rows = columns.records.rows - rows
            if messages[each].status == NO_MEMORY or scratch.fault == OUT_OF_MEMORY:
                return NO_MEMORY
    return APPENDED


cdef class ArrowDictionary:
    """A dictionary message of an Arrow stream: strings, none of them null, not compressed, no delta.

    Raises ``ValueError`` for any other. ``nbytes``: of its strings and their offsets.
    """

    cdef Dictionary _dictionary
    cdef bytes _body

    def __cinit__(self, bytes header, bytes body):
        cdef Message message
        cdef int64_t pairs[6]
        cdef int32_t* ends
        cdef size_t row
        if not (
            read_arrow_message(
                &message,
                HEADER_DICTIONARY,
                <Position>PyBytes_AS_STRING(header),
                PyBytes_GET_SIZE(header),
                <Position>PyBytes_AS_STRING(body),
                PyBytes_GET_SIZE(body),
            )
            and message.node_count == 1
            and message.buffer_count == 3
        ):
            raise ValueError("no plain dictionary of strings")
        memcpy(pairs, message.nodes, 16)
        if pairs[0] != message.rows or pairs[1] != 0:
            raise ValueError("a dictionary with nulls")
        memcpy(pairs, message.buffers, 48)
        self._dictionary.count = <size_t>message.rows
        ends = <int32_t*>calloc(message.rows + 1, 4)
        if ends == NULL:
            raise MemoryError
        self._dictionary.ends = ends
        if message.rows:
            if pairs[3] < 4 * (message.rows + 1):
                raise ValueError("offsets are missing")
            memcpy(ends, message.body + pairs[2], 4 * (message.rows + 1))
        for row in range(<size_t>message.rows):
            if ends[row] > ends[row + 1]:
                raise ValueError("offsets that fall")
        if ends[0] != 0 or ends[message.rows] > pairs[5]:
            raise ValueError("offsets outside of the text")
        self._dictionary.text = message.body + pairs[4]
        self._body = body

    def __dealloc__(self):
        free(<void*>self._dictionary.ends)

    @property
    def nbytes(self) -> int:
        return 4 * (self._dictionary.count + 1) + self._dictionary.ends[self._dictionary.count]


cdef class Builder:
    """Gathers rows of one signal; see ``codec/interface.py`` for the promises."""

    cdef Columns* _columns
    cdef dict _parts
    # What a finished batch has and the columns have not: bitmaps, types. Kept like the columns, because
    # new memory for 65,536 spans cost 30 ns a span in page faults.
    cdef Bytes _derived[MAX_DERIVED]
    cdef int _derived_count
    cdef Bounds _derived_bounds
    cdef bint _by_runs  # what repeats itself is told once
    cdef Bytes _scratch[SCRATCHES]
    cdef GatherRecords _gather
    cdef bint _busy

    def __dealloc__(self):
        cdef int each
        if self._columns != NULL:
            columns_free(self._columns)
            free(self._columns)
        for each in range(MAX_DERIVED):
            bytes_free(&self._derived[each])
        for each in range(SCRATCHES):
            bytes_free(&self._scratch[each])

    cdef void* _allocate(self, size_t size) except NULL:
        cdef int each
        self._derived_bounds.max_offset = <size_t>-1 >> 1
        for each in range(SCRATCHES):
            self._scratch[each].bounds = &self._derived_bounds
        self._columns = <Columns*>calloc(1, size)
        if self._columns == NULL:
            raise MemoryError
        return self._columns

    @property
    def rows(self) -> int:
        return self._columns.records.rows

    @property
    def nbytes(self) -> int:
        return columns_nbytes(self._columns)

    cdef int _check_idle(self) except -1:
        """``append`` lets other threads run, and none of them may touch the columns."""
        if self._busy:
            raise RuntimeError("a builder is for one caller at a time")
        return 0

    def append(self, payloads, max_repeated_bytes: int, max_offset: int, max_held_bytes: int) -> list:
        """For each payload: status, rows, rejected, and the reasons of the first rejected records as
        ``(record, check, length, member)``."""
        self._check_idle()
        cdef list held = [payload if type(payload) is bytes else bytes(payload) for payload in payloads]
        cdef size_t count = len(held)
        cdef size_t total = 0
        cdef size_t rows = self._columns.records.rows
        cdef size_t each
        cdef Payload* each_payload
        cdef Payload* all_payloads = <Payload*>calloc(max(count, <size_t>1), sizeof(Payload))
        cdef uint64_t bound = max_repeated_bytes
        if all_payloads == NULL:
            raise MemoryError
        try:
            for each in range(count):
                each_payload = &all_payloads[each]
                each_payload.data = <Position>PyBytes_AS_STRING(held[each])
                each_payload.size = PyBytes_GET_SIZE(held[each])
                each_payload.scan.max_repeated_bytes = bound
                total += each_payload.size
            self._columns.bounds.max_offset = min(max_offset, INT32_MAX - 1)
            self._columns.bounds.max_held_bytes = max_held_bytes
            self._busy = True
            if total > SCANNED_WITH_GIL:
                with nogil:
                    scan_all(self._columns, all_payloads, count)
            else:
                scan_all(self._columns, all_payloads, count)
            for each in range(count):
                if all_payloads[each].scan.status == NO_MEMORY:
                    columns_truncate(self._columns, rows)
                    raise MemoryError("no memory for the columns of a request")
            return [outcome(&all_payloads[each].scan) for each in range(count)]
        finally:
            self._busy = False
            free(all_payloads)

    def gather(self, list messages, max_repeated_bytes: int, max_offset: int, max_held_bytes: int) -> list:
        """For each message, a record batch in the schema of the builder: status and rows. A message is its header, its
        body, and an ``ArrowDictionary`` for each encoded field, depth first. Nothing is kept of one in which anything is
        in doubt (MALFORMED). The GIL is let go once for all of them: taking it again means to wait for the loop."""
        self._check_idle()
        cdef size_t count = len(messages)
        cdef size_t rows = self._columns.records.rows
        cdef size_t each
        cdef size_t opened = 0
        cdef int status
        cdef Gathered* gathered
        if count == 0:
            return []
        gathered = <Gathered*>calloc(count, sizeof(Gathered))
        if gathered == NULL:
            raise MemoryError
        self._columns.bounds.max_offset = min(max_offset, INT32_MAX - 1)
        self._columns.bounds.max_held_bytes = max_held_bytes
        self._derived_bounds.fault = NO_FAULT
        self._busy = True
        try:
            for header, body, dictionaries in messages:
                PyObject_GetBuffer(body, &gathered[opened].body, PyBUF_SIMPLE)
                opened += 1
                self._prepare(&gathered[opened - 1], header, dictionaries, max_repeated_bytes)
            with nogil:
                status = gather_all(self._columns, gathered, count, self._gather, &self._derived_bounds)
            if status == NO_MEMORY:
                columns_truncate(self._columns, rows)
                raise MemoryError("no memory for the columns of a batch")
            return [(gathered[each].status, gathered[each].rows) for each in range(count)]
        finally:
            self._busy = False
            for each in range(opened):
                PyBuffer_Release(&gathered[each].body)
            free(gathered)

    cdef int _prepare(self, Gathered* to, bytes header, tuple dictionaries, max_repeated_bytes) except -1:
        cdef Gathering* gathering = &to.gathering
        cdef ArrowDictionary each
        to.status = MALFORMED
        if len(dictionaries) > MAX_KEYWORDS:
            return 0
        for each in dictionaries:
            to.dictionaries[gathering.dictionary_count] = &each._dictionary
            gathering.dictionary_count += 1
        gathering.dictionaries = to.dictionaries
        gathering.max_repeated_bytes = max_repeated_bytes
        gathering.bitmaps = &self._scratch[0]
        gathering.bytes = &self._scratch[MAX_GATHER_BITMAPS]
        gathering.json = &self._scratch[MAX_GATHER_BITMAPS + 1]
        gathering.block = &self._scratch[MAX_GATHER_BITMAPS + 2]
        to.readable = read_arrow_message(
            &gathering.message,
            HEADER_BATCH,
            <Position>PyBytes_AS_STRING(header),
            PyBytes_GET_SIZE(header),
            <Position>to.body.buf,
            to.body.len,
        )
        return 0

    def truncate(self, rows: int) -> None:
        self._check_idle()
        if not 0 <= rows <= self._columns.records.rows:
            raise ValueError(f"{rows} rows wanted of {self._columns.records.rows}")
        columns_truncate(self._columns, rows)

    def clear(self) -> None:
        cdef bint idle = self._columns.records.rows == 0
        cdef int each
        self._check_idle()
        columns_clear(self._columns)
        for each in range(MAX_DERIVED):
            bytes_clear(&self._derived[each], idle)
        if idle:
            for each in range(SCRATCHES):
                bytes_free(&self._scratch[each])

    # -- parts: {path: (rows, buffers)}; a path is that of a field in the schema, "[]" the members of a list,
    # "{}" the dictionary. A buffer is (address, size), the first of each part its bitmap or None.

    cdef tuple _memory(self, void* address, size_t size):
        return (<uintptr_t>(address if address != NULL else NOTHING), size)

    cdef uint8_t* _derive(self, size_t size) except NULL:
        """Memory of the builder for something that is made of its columns."""
        cdef Bytes* memory = &self._derived[self._derived_count]
        self._derived_count += 1
        memory.bounds = &self._derived_bounds
        memory.length = 0
        if not bytes_reserve(memory, size):
            raise MemoryError
        memory.length = size
        return memory.data

    cdef uint8_t* _bits(self, size_t rows) except NULL:
        return self._derive((rows + 7) // 8)

    cdef void _add(self, str path, size_t rows, uint8_t* bits, bint all_valid, list buffers):
        """``bits`` says which rows are valid; of no interest where all are."""
        validity = None if all_valid else self._memory(bits, (rows + 7) // 8)
        self._parts[path] = (rows, [validity, *buffers])

    cdef void _plain(self, str path, Table* table, int column, uint8_t* bits, bint all_valid):
        cdef size_t rows = table.rows
        self._add(path, rows, bits, all_valid, [self._memory(table.column[column], rows * table.width[column])])

    cdef void _fixed(self, str path, Table* table, int column, Nulls nulls):
        """Numbers, times, ids."""
        cdef size_t rows = table.rows
        cdef uint8_t* bits = NULL
        cdef bint all_valid = True
        cdef uint64_t* data = <uint64_t*>table.column[column]
        if nulls == ZERO:
            bits = self._bits(rows)
            all_valid = bits_where_not_zero(data, rows, bits)
        elif nulls == ZERO_PAIR:
            bits = self._bits(rows)
            all_valid = bits_where_not_zero_pair(data, rows, bits)
        self._plain(path, table, column, bits, all_valid)

    cdef void _flagged(self, str path, Table* table, int column, int flags, uint8_t flag):
        """Null where a flag in another column is not set."""
        cdef uint8_t* bits = self._bits(table.rows)
        cdef bint all_valid = bits_where_flag(
            u8(table, flags), table.rows, flag, bits
        )
        self._plain(path, table, column, bits, all_valid)

    cdef void _text(self, str path, Table* table, int column, Bytes* text, uint8_t* bits, bint all_valid):
        cdef size_t rows = table.rows
        self._add(
            path,
            rows,
            bits,
            all_valid,
            [self._memory(table.column[column], (rows + 1) * 4), self._memory(text.data, text.length)],
        )

    cdef void _optional_text(self, str path, Sparse* sparse):
        cdef uint8_t* bits = self._bits(sparse.table.rows)
        cdef bint all_valid
        sparse_fill(sparse, sparse.table.rows)
        all_valid = bits_where_not_empty(
            i32(sparse.table, sparse.column), sparse.table.rows, bits
        )
        self._text(path, sparse.table, sparse.column, &sparse.bytes, bits, all_valid)

    cdef void _keyword(self, str path, Table* table, int column, Keywords* words):
        self._plain(path, table, column, NULL, True)
        self._text(path + "{}", &words.entries, KEYWORD_END, &words.text, NULL, True)

    cdef void _optional_keyword(self, str path, Table* table, int column, Keywords* words):
        cdef uint8_t* bits = self._bits(table.rows)
        cdef bint all_valid = bits_where_not_negative(
            i32(table, column), table.rows, bits
        )
        cdef int32_t* indices = <int32_t*>self._derive(table.rows * 4)
        cdef size_t row
        self._keyword(path, table, column, words)
        if not all_valid:
            for row in range(table.rows):  # some readers look at an index even where it is null
                indices[row] = max(i32(table, column)[row], 0)
            self._add(path, table.rows, bits, all_valid, [self._memory(indices, table.rows * 4)])

    cdef void _list(self, str path, Table* table, int column, uint8_t* bits, bint all_valid):
        """Lists and maps: their ends."""
        self._add(path, table.rows, bits, all_valid, [self._memory(table.column[column], (table.rows + 1) * 4)])

    cdef void _values(self, str path, Values* values):
        cdef Table* table = &values.table
        cdef size_t rows = table.rows
        cdef uint8_t* types = self._derive(rows)
        cdef uint8_t* bits[6]
        cdef int all_set, each
        for each in range(VALUE_BITMAPS):
            bits[each] = self._bits(rows)
        all_set = bits_of_types(u8(table, VALUE_TYPE), rows, types, bits)
        if values.octets.filled > 0:
            sparse_fill(&values.octets, rows)
        self._add(path, rows, NULL, True, [])
        self._add(path + ".type", rows, NULL, True, [self._memory(types, rows)])
        self._text(path + ".str", table, VALUE_STR_END, &values.text, bits[BITS_STR], all_set >> BITS_STR & 1)
        self._plain(path + ".int", table, VALUE_INT, bits[BITS_INT], all_set >> BITS_INT & 1)
        self._plain(path + ".double", table, VALUE_DOUBLE, bits[BITS_DOUBLE], all_set >> BITS_DOUBLE & 1)
        truths = self._memory(bits[BITS_TRUE], (rows + 7) // 8)
        self._add(path + ".bool", rows, bits[BITS_BOOL], all_set >> BITS_BOOL & 1, [truths])
        self._text(
            path + ".bytes", table, VALUE_BYTES_END, &values.octets.bytes, bits[BITS_BYTES], all_set >> BITS_BYTES & 1
        )
        # Most attributes have no number in them, and nearly none bytes: 120 bytes of zeros a span need not be read.
        if values.ints_end == 0:
            self._zeros(path + ".int", &values.zeros[0], 8, rows)
        if values.doubles_end == 0:
            self._zeros(path + ".double", &values.zeros[1], 8, rows)
        if values.octets.filled == 0:
            self._zeros(path + ".bytes", &values.zeros[2], 4, rows + 1)

    cdef void _zeros(self, str path, ZstdRun* run, size_t width, size_t count):
        """The second buffer of an array is nothing but zeros: tell that, where runs are told."""
        if self._by_runs and count >= MIN_RUN_ATTRIBUTES:
            run.data = NOTHING
            run.size = width
            run.times = count
            self._parts[path][1][1] = (<uintptr_t>run, width * count, 1)

    cdef void _attributes(self, str path, Table* table, int column, Attributes* attributes):
        self._list(path, table, column, NULL, True)
        self._keyword(path + ".key", &attributes.values.table, VALUE_KEY, &attributes.keys)
        self._values(path + ".value", &attributes.values)

    cdef int _repeated(self, str path, Table* table, int column, Repeated* repeated, bint runs) except -1:
        cdef Attributes* once = &repeated.once
        cdef Values* spread = &repeated.spread
        runs = runs and repeated_is_worth_runs(repeated)
        self._columns.bounds.fault = NO_FAULT
        if not repeated_spread(repeated, not runs):
            raise MemoryError("no memory for the attributes of each row")
        self._list(path, table, column, NULL, True)
        self._keyword(path + ".key", &spread.table, VALUE_KEY, &once.keys)
        self._values(path + ".value", spread)
        if runs:
            self._parts[path + ".key"][1][1] = self._runs(repeated, 0, VALUE_KEY)
            self._parts[path + ".value.str"][1][2] = self._runs(repeated, 1, VALUE_STR_END)
            self._parts[path + ".value.int"][1][1] = self._runs(repeated, 2, VALUE_INT)
            self._parts[path + ".value.double"][1][1] = self._runs(repeated, 3, VALUE_DOUBLE)
        return 0

    cdef tuple _runs(self, Repeated* repeated, int told, int column):
        """A buffer by what it repeats: of a column, or of the text below the ends."""
        cdef Values* once = &repeated.once.values
        cdef size_t count = repeated_run_count(repeated)
        cdef Bytes* memory = &repeated.told[told]
        cdef ZstdRun* runs
        cdef size_t width = once.table.width[column]
        cdef int32_t* ends = i32(&once.table, VALUE_STR_END)
        cdef size_t each
        cdef Run run
        memory.length = 0
        if not bytes_reserve(memory, count * sizeof(ZstdRun)):
            raise MemoryError
        runs = <ZstdRun*>memory.data
        memory.length = count * sizeof(ZstdRun)
        for each in range(count):
            run = repeated_runs(repeated)[each]
            runs[each].times = run.times
            if column == VALUE_STR_END:
                runs[each].data = once.text.data + ends[run.first]
                runs[each].size = values_text_size(once, run.first, run.count)
            else:
                runs[each].data = once.table.column[column] + run.first * width
                runs[each].size = run.count * width
        return (<uintptr_t>runs, repeated.text if column == VALUE_STR_END else repeated.rows * width, count)

    cdef void _struct(self, str path, Table* table):
        self._add(path, table.rows, NULL, True, [])

    cdef void _words(self, str path, Table* table, int column, Words* words):
        self._list(path, table, column, NULL, True)
        self._text(path + "[]", &words.table, 0, &words.text, NULL, True)

    cdef void _origin(self, bint runs):
        cdef Columns* shared = self._columns
        cdef Table* records = &shared.records
        cdef Table* entities = &shared.entities
        self._optional_keyword("service_name", records, SERVICE, &shared.services)
        self._repeated("resource_attributes", records, RESOURCE_ATTRIBUTES_END, &shared.resource_attributes, runs)
        self._fixed("resource_dropped_attributes_count", records, RESOURCE_DROPPED, NEVER)
        self._keyword("resource_schema_url", records, RESOURCE_URL, &shared.resource_urls)
        self._list("resource_entity_refs", records, ENTITIES_END, NULL, True)
        self._struct("resource_entity_refs[]", entities)
        self._text(
            "resource_entity_refs[].schema_url", entities, ENTITY_URL_END, &shared.entity_urls, NULL, entities.rows
        )
        self._text("resource_entity_refs[].type", entities, ENTITY_TYPE_END, &shared.entity_types, NULL, True)
        self._words("resource_entity_refs[].id_keys", entities, ENTITY_ID_KEYS_END, &shared.entity_id_keys)
        self._words(
            "resource_entity_refs[].description_keys",
            entities,
            ENTITY_DESCRIPTION_KEYS_END,
            &shared.entity_description_keys,
        )
        self._keyword("scope_name", records, SCOPE_NAME, &shared.scope_names)
        self._keyword("scope_version", records, SCOPE_VERSION, &shared.scope_versions)
        self._repeated("scope_attributes", records, SCOPE_ATTRIBUTES_END, &shared.scope_attributes, runs)
        self._fixed("scope_dropped_attributes_count", records, SCOPE_DROPPED, NEVER)
        self._keyword("scope_schema_url", records, SCOPE_URL, &shared.scope_urls)

    def parts(self, runs: bool = False) -> dict:
        """The buffers of all rows. Those in the builder's memory are valid until rows are appended, cut or cleared.
        ``runs``: some that repeat themselves are (address, size, count) instead, for ``zstd_runs``."""
        self._check_idle()
        self._parts = {}
        self._derived_count = 0
        self._by_runs = runs
        self._origin(runs)
        self._own()
        parts, self._parts = self._parts, None
        return parts

    cdef void _own(self):
        pass


cdef struct Payload:
    Position data
    size_t size
    Scan scan


cdef void scan_all(Columns* columns, Payload* payloads, size_t count) noexcept nogil:
    cdef size_t each
    for each in range(count):
        scan_payload(columns, &payloads[each].scan, payloads[each].data, payloads[each].size)
        if payloads[each].scan.status == NO_MEMORY:
            return


cdef tuple outcome(Scan* scan):
    cdef list reasons = []
    cdef size_t each
    for each in range(min(scan.rejected, <uint64_t>MAX_REASONS)):
        reasons.append(
            (scan.reasons[each].record, scan.reasons[each].check, scan.reasons[each].length, scan.reasons[each].member)
        )
    return scan.status, scan.rows, scan.rejected, reasons


cdef class TracesBuilder(Builder):
    """Spans."""

    def __cinit__(self):
        traces_begin(<Traces*>self._allocate(sizeof(Traces)))
        self._gather = gather_spans

    cdef void _own(self):
        cdef Traces* traces = <Traces*>self._columns
        cdef Table* spans = &traces.shared.records
        cdef Table* events = &traces.events
        cdef Table* links = &traces.links
        self._fixed("trace_id", spans, SPAN_TRACE_ID, NEVER)
        self._fixed("span_id", spans, SPAN_ID, NEVER)
        self._fixed("parent_span_id", spans, SPAN_PARENT_ID, ZERO)
        self._keyword("name", spans, SPAN_NAME, &traces.names)
        self._fixed("kind", spans, SPAN_KIND, NEVER)
        self._fixed("start_time_unix_nano", spans, SPAN_START, ZERO)
        self._fixed("end_time_unix_nano", spans, SPAN_END, ZERO)
        self._fixed("status_code", spans, SPAN_STATUS_CODE, NEVER)
        self._optional_text("status_message", &traces.status_messages)
        self._attributes("attributes", spans, SPAN_ATTRIBUTES_END, &traces.attributes)
        self._fixed("dropped_attributes_count", spans, SPAN_DROPPED_ATTRIBUTES, NEVER)
        self._optional_text("trace_state", &traces.trace_states)
        self._fixed("flags", spans, SPAN_FLAGS, NEVER)
        self._list("events", spans, SPAN_EVENTS_END, NULL, True)
        self._struct("events[]", events)
        self._fixed("events[].time_unix_nano", events, EVENT_TIME, ZERO)
        self._keyword("events[].name", events, EVENT_NAME, &traces.event_names)
        self._attributes("events[].attributes", events, EVENT_ATTRIBUTES_END, &traces.event_attributes)
        self._fixed("events[].dropped_attributes_count", events, EVENT_DROPPED_ATTRIBUTES, NEVER)
        self._fixed("dropped_events_count", spans, SPAN_DROPPED_EVENTS, NEVER)
        self._list("links", spans, SPAN_LINKS_END, NULL, True)
        self._struct("links[]", links)
        self._fixed("links[].trace_id", links, LINK_TRACE_ID, ZERO_PAIR)
        self._fixed("links[].span_id", links, LINK_SPAN_ID, ZERO)
        self._optional_text("links[].trace_state", &traces.link_trace_states)
        self._fixed("links[].flags", links, LINK_FLAGS, NEVER)
        self._attributes("links[].attributes", links, LINK_ATTRIBUTES_END, &traces.link_attributes)
        self._fixed("links[].dropped_attributes_count", links, LINK_DROPPED_ATTRIBUTES, NEVER)
        self._fixed("dropped_links_count", spans, SPAN_DROPPED_LINKS, NEVER)


cdef class MetricsBuilder(Builder):
    """Data points."""

    def __cinit__(self):
        metrics_begin(<Metrics*>self._allocate(sizeof(Metrics)))
        self._gather = gather_points

    cdef void _of_kinds(self, str path, Table* points, int column, int a, int b, int c):
        """A column that only some types of metrics have."""
        cdef uint8_t* bits = self._bits(points.rows)
        cdef bint all_valid = bits_where_byte(u8(points, POINT_KIND), points.rows, a, b, c, bits)
        self._plain(path, points, column, bits, all_valid)

    cdef void _list_of_kind(self, str path, Table* points, int column, int kind):
        cdef uint8_t* bits = self._bits(points.rows)
        cdef bint all_valid = bits_where_byte(u8(points, POINT_KIND), points.rows, kind, kind, kind, bits)
        self._list(path, points, column, bits, all_valid)

    cdef void _numbers(self, str path, Table* points, int column, int kind, Table* numbers):
        self._list_of_kind(path, points, column, kind)
        self._fixed(path + "[]", numbers, 0, NEVER)

    cdef void _own(self):
        cdef Metrics* metrics = <Metrics*>self._columns
        cdef Table* points = &metrics.shared.records
        cdef Table* exemplars = &metrics.exemplars
        cdef size_t rows = points.rows
        cdef uint8_t* bits
        cdef uint8_t* truths
        cdef bint all_valid
        cdef int exponential = EXPONENTIAL_HISTOGRAM
        self._keyword("metric_name", points, METRIC_NAME, &metrics.names)
        self._keyword("metric_type", points, METRIC_TYPE, &metrics.types)
        self._keyword("description", points, METRIC_DESCRIPTION, &metrics.descriptions)
        self._keyword("unit", points, METRIC_UNIT, &metrics.units)
        self._attributes("metadata", points, METRIC_METADATA_END, &metrics.metadata)
        self._fixed("start_time_unix_nano", points, POINT_START, ZERO)
        self._fixed("time_unix_nano", points, POINT_TIME, ZERO)
        self._flagged("int_value", points, POINT_INT, POINT_HAS, HAS_INT)
        self._flagged("double_value", points, POINT_DOUBLE, POINT_HAS, HAS_DOUBLE)
        self._attributes("attributes", points, POINT_ATTRIBUTES_END, &metrics.attributes)
        self._fixed("flags", points, POINT_FLAGS, NEVER)
        self._of_kinds("aggregation_temporality", points, METRIC_TEMPORALITY, SUM, HISTOGRAM, exponential)
        truths = self._bits(rows)
        bits_where_flag(u8(points, POINT_HAS), rows, HAS_MONOTONIC, truths)
        bits = self._bits(rows)
        all_valid = bits_where_byte(u8(points, POINT_KIND), rows, SUM, SUM, SUM, bits)
        self._add("is_monotonic", rows, bits, all_valid, [self._memory(truths, (rows + 7) // 8)])
        self._of_kinds("count", points, POINT_COUNT, HISTOGRAM, exponential, SUMMARY)
        self._flagged("sum", points, POINT_SUM, POINT_HAS, HAS_SUM)
        self._flagged("min", points, POINT_MIN, POINT_HAS, HAS_MIN)
        self._flagged("max", points, POINT_MAX, POINT_HAS, HAS_MAX)
        self._numbers("bucket_counts", points, POINT_BUCKETS_END, HISTOGRAM, &metrics.buckets)
        self._numbers("explicit_bounds", points, POINT_BOUNDS_END, HISTOGRAM, &metrics.bounds)
        self._of_kinds("scale", points, POINT_SCALE, exponential, exponential, exponential)
        self._of_kinds("zero_count", points, POINT_ZERO_COUNT, exponential, exponential, exponential)
        self._of_kinds("zero_threshold", points, POINT_ZERO_THRESHOLD, exponential, exponential, exponential)
        self._of_kinds("positive_offset", points, POINT_POSITIVE_OFFSET, exponential, exponential, exponential)
        self._numbers("positive_bucket_counts", points, POINT_POSITIVE_END, exponential, &metrics.positive)
        self._of_kinds("negative_offset", points, POINT_NEGATIVE_OFFSET, exponential, exponential, exponential)
        self._numbers("negative_bucket_counts", points, POINT_NEGATIVE_END, exponential, &metrics.negative)
        self._list_of_kind("quantiles", points, POINT_QUANTILES_END, SUMMARY)
        self._struct("quantiles[]", &metrics.quantiles)
        self._fixed("quantiles[].quantile", &metrics.quantiles, QUANTILE, NEVER)
        self._fixed("quantiles[].value", &metrics.quantiles, QUANTILE_VALUE, NEVER)
        self._list("exemplars", points, POINT_EXEMPLARS_END, NULL, True)
        self._struct("exemplars[]", exemplars)
        self._fixed("exemplars[].time_unix_nano", exemplars, EXEMPLAR_TIME, ZERO)
        self._flagged("exemplars[].int_value", exemplars, EXEMPLAR_INT, EXEMPLAR_HAS, HAS_INT)
        self._flagged("exemplars[].double_value", exemplars, EXEMPLAR_DOUBLE, EXEMPLAR_HAS, HAS_DOUBLE)
        self._fixed("exemplars[].trace_id", exemplars, EXEMPLAR_TRACE_ID, ZERO_PAIR)
        self._fixed("exemplars[].span_id", exemplars, EXEMPLAR_SPAN_ID, ZERO)
        self._attributes(
            "exemplars[].filtered_attributes", exemplars, EXEMPLAR_ATTRIBUTES_END, &metrics.exemplar_attributes
        )


cdef class LogsBuilder(Builder):
    """Log records."""

    def __cinit__(self):
        logs_begin(<Logs*>self._allocate(sizeof(Logs)))
        self._gather = gather_log_records

    cdef void _own(self):
        cdef Logs* logs = <Logs*>self._columns
        cdef Table* records = &logs.shared.records
        self._fixed("time_unix_nano", records, LOG_TIME, ZERO)
        self._fixed("observed_time_unix_nano", records, LOG_OBSERVED_TIME, ZERO)
        self._fixed("severity_number", records, LOG_SEVERITY_NUMBER, NEVER)
        self._keyword("severity_text", records, LOG_SEVERITY_TEXT, &logs.severity_texts)
        self._values("body", &logs.bodies)
        self._attributes("attributes", records, LOG_ATTRIBUTES_END, &logs.attributes)
        self._fixed("dropped_attributes_count", records, LOG_DROPPED_ATTRIBUTES, NEVER)
        self._keyword("event_name", records, LOG_EVENT_NAME, &logs.event_names)
        self._fixed("flags", records, LOG_FLAGS, NEVER)
        self._fixed("trace_id", records, LOG_TRACE_ID, ZERO_PAIR)
        self._fixed("span_id", records, LOG_SPAN_ID, ZERO)
