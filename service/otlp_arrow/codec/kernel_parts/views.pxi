# Arrow arrays as the encoder reads them: batches that others may have made, so offsets and indices are
# checked where they are used.

cdef struct View:
    # An Arrow array. `data` are its values, indices or offsets; `text` what the offsets point into.
    size_t length
    size_t offset
    const uint8_t* bits  # NULL: all valid
    const uint8_t* data
    const uint8_t* text
    size_t text_size


cdef struct KeywordView:
    View indices
    View words


cdef struct ValuesView:
    View type
    View text  # str
    View integer  # int
    View real  # double
    View truth  # bool
    View octets  # bytes


cdef struct AttributesView:
    View lists
    KeywordView keys
    ValuesView values


cdef struct Range:
    size_t first
    size_t end


cdef inline bint view_valid(View* self, size_t row) noexcept nogil:
    cdef size_t at = self.offset + row
    return self.bits == NULL or self.bits[at >> 3] >> (at & 7) & 1


cdef inline bint view_bool(View* self, size_t row) noexcept nogil:
    cdef size_t at = self.offset + row
    return self.data[at >> 3] >> (at & 7) & 1


cdef inline int32_t view32(View* self, size_t row) noexcept nogil:
    return (<const int32_t*>self.data)[self.offset + row]


cdef inline uint64_t view64(View* self, size_t row) noexcept nogil:
    return (<const uint64_t*>self.data)[self.offset + row]


cdef inline bint view_range(View* self, size_t row, size_t bound, Range* found) noexcept nogil:
    """The members of a list, or the bytes of a text: offsets that others made are checked."""
    cdef const int32_t* ends = <const int32_t*>self.data + self.offset + row
    found.first = <size_t>ends[0]
    found.end = <size_t>ends[1]
    return likely(ends[0] >= 0 and ends[0] <= ends[1] and found.end <= bound)


cdef inline bint view_list(View* self, size_t row, size_t bound, Range* found) noexcept nogil:
    """The same, but null is an empty list."""
    if not view_valid(self, row):
        found.first = found.end = 0
        return True
    return view_range(self, row, bound, found)


cdef inline bint view_text(View* self, size_t row, Id* found) noexcept nogil:
    cdef Range range
    if unlikely(not view_range(self, row, self.text_size, &range)):
        return False
    found.data = self.text + range.first
    found.length = range.end - range.first
    return True


cdef inline bint view_keyword(KeywordView* self, size_t row, Id* found) noexcept nogil:
    cdef int32_t index = view32(&self.indices, row)
    return likely(index >= 0 and <size_t>index < self.words.length) and view_text(&self.words, <size_t>index, found)


# -- Arrow's arrays, as they come through its C data interface -------------------------------------

cdef struct ArrowArray:
    int64_t length
    int64_t null_count
    int64_t offset
    int64_t n_buffers
    int64_t n_children
    const void** buffers
    ArrowArray** children
    ArrowArray* dictionary
    void (*release)(ArrowArray*) noexcept
    void* private_data


cdef struct Extent:
    # The members of a struct that a field of it shows: those of the struct.
    size_t offset
    size_t length


cdef enum Nullable:
    REQUIRED  # a null here is unusual
    NULLABLE


cdef inline Extent whole(ArrowArray* array) noexcept nogil:
    return Extent(0, <size_t>array.length)


cdef bint see(View* view, ArrowArray* array, Extent extent, Nullable nullable) noexcept nogil:
    """Buffers are as long as they must be and last offsets in bounds: ``validate`` saw to that."""
    cdef size_t row
    view.length = extent.length
    view.offset = <size_t>array.offset + extent.offset
    view.bits = <const uint8_t*>array.buffers[0] if array.null_count != 0 else NULL
    view.data = <const uint8_t*>array.buffers[1]
    if view.data == NULL:
        view.data = NOTHING  # no values, and one offset
    if nullable == REQUIRED and view.bits != NULL:
        for row in range(view.length):
            if not view_valid(view, row):
                return False
    return True


cdef bint see_text(View* view, ArrowArray* array, Extent extent, Nullable nullable) noexcept nogil:
    if not see(view, array, extent, nullable):
        return False
    view.text = <const uint8_t*>array.buffers[2]
    if array.length == 0 or view.text == NULL:
        view.text = NOTHING
        view.text_size = 0
    else:
        view.text_size = <size_t>(<const int32_t*>view.data)[array.offset + array.length]
    return True


cdef bint see_keyword(KeywordView* view, ArrowArray* array, Extent extent) noexcept nogil:
    return see(&view.indices, array, extent, REQUIRED) and see_text(
        &view.words, array.dictionary, whole(array.dictionary), REQUIRED
    )


cdef bint see_struct(ArrowArray* array, Extent extent, Extent* inside) noexcept nogil:
    cdef View view
    cdef size_t row
    view.length = extent.length
    view.offset = <size_t>array.offset + extent.offset
    view.bits = <const uint8_t*>array.buffers[0] if array.null_count != 0 else NULL
    if view.bits != NULL:
        for row in range(view.length):
            if not view_valid(&view, row):
                return False
    inside[0] = Extent(view.offset, extent.length)
    return True


cdef bint see_values(ValuesView* view, ArrowArray* array, Extent extent) noexcept nogil:
    cdef Extent inside
    return (
        see_struct(array, extent, &inside)
        and see(&view.type, array.children[0], inside, REQUIRED)
        and see_text(&view.text, array.children[1], inside, NULLABLE)
        and see(&view.integer, array.children[2], inside, NULLABLE)
        and see(&view.real, array.children[3], inside, NULLABLE)
        and see(&view.truth, array.children[4], inside, NULLABLE)
        and see_text(&view.octets, array.children[5], inside, NULLABLE)
    )


cdef bint see_attributes(AttributesView* view, ArrowArray* array, Extent extent) noexcept nogil:
    cdef ArrowArray* entries = array.children[0]
    cdef Extent inside
    return (
        see(&view.lists, array, extent, REQUIRED)
        and see_struct(entries, whole(entries), &inside)
        and see_keyword(&view.keys, entries.children[0], inside)
        and see_values(&view.values, entries.children[1], inside)
    )


cdef bint see_numbers(View* lists, View* numbers, ArrowArray* array) noexcept nogil:
    """Lists of numbers, which may be null."""
    return see(lists, array, whole(array), NULLABLE) and see(
        numbers, array.children[0], whole(array.children[0]), REQUIRED
    )


cdef bint see_words(View* lists, View* words, ArrowArray* array, Extent extent) noexcept nogil:
    return see(lists, array, extent, REQUIRED) and see_text(
        words, array.children[0], whole(array.children[0]), REQUIRED
    )
