# The bodies of compressed messages: what lies in a builder's memory, in one pass without the GIL.

cdef enum:
    MOST_BUFFERS = 3  # of an array: validity, offsets, text
    KEPT_PACKED_BYTES = 8388608  # more is given back at once: a unit has 1 to 3 MiB


cdef struct Packed:
    ZstdWork* work
    ZstdOut out


# One is kept for the next message; whoever takes or leaves it holds the GIL.
cdef Packed SPARE
memset(&SPARE, 0, sizeof(SPARE))


cdef void packed_free(Packed* self) noexcept:
    free(self.work)
    free(self.out.data)
    memset(self, 0, sizeof(Packed))


cdef Packed packed_take():
    """What was kept, or new: ``work`` is NULL without memory."""
    global SPARE
    cdef Packed found = SPARE
    memset(&SPARE, 0, sizeof(SPARE))
    if found.work == NULL:
        found.work = <ZstdWork*>malloc(sizeof(ZstdWork))
    found.out.size = 0
    found.out.no_memory = False
    return found


cdef void packed_leave(Packed* self) noexcept:
    global SPARE
    if self.work != NULL and SPARE.work == NULL and self.out.capacity <= KEPT_PACKED_BYTES:
        packed_free(&SPARE)
        SPARE = self[0]
    else:
        packed_free(self)


cdef object packed_frame(const ZstdBuffer* buffer):
    """One frame alone, or None."""
    cdef Packed packed = packed_take()
    cdef bint fine = False
    try:
        if packed.work != NULL:
            with nogil:
                fine = zstd_frame_of(buffer, packed.work, &packed.out) == ZSTD_DONE
        if packed.work == NULL or packed.out.no_memory:
            raise MemoryError("no memory to compress a column")
        return PyBytes_FromStringAndSize(<const char*>packed.out.data, packed.out.size) if fine else None
    finally:
        packed_leave(&packed)


def forget_packing_memory() -> None:
    """Give back what is kept for the next ``MessageBody``."""
    packed_free(&SPARE)


cdef class MessageBody:
    """A compressed body as a buffer of bytes. ``nodes``: rows and nulls of each array, ``places``: where each
    buffer lies and its bytes, both as int64."""

    cdef Packed _packed
    cdef readonly bytes nodes
    cdef readonly bytes places

    def __cinit__(self, list arrays, dict parts, compress):
        """``arrays``: of each the path, the bytes of an element, whether its second buffer is offsets, and whether it is
        the entries of a map. ``parts``: see ``ColumnMemory``. ``compress``: from address and size to the library's
        frame."""
        cdef size_t node_count = len(arrays)
        cdef ZstdBuffer* buffers
        cdef ZstdBuffer* buffer
        cdef int64_t* nodes
        cdef int64_t* places
        cdef size_t count = 0, at = 0, node = 0
        cdef str path
        cdef tuple part, array, memory
        cdef object each
        cdef list held
        cdef bytes frame
        self._packed = packed_take()
        self.nodes = PyBytes_FromStringAndSize(NULL, 16 * node_count)
        nodes = <int64_t*>PyBytes_AS_STRING(self.nodes)
        places = <int64_t*>calloc(2 * MOST_BUFFERS * node_count + 1, sizeof(int64_t))
        buffers = <ZstdBuffer*>calloc(MOST_BUFFERS * node_count + 1, sizeof(ZstdBuffer))
        try:
            if self._packed.work == NULL or places == NULL or buffers == NULL:
                raise MemoryError("no memory to compress a message")
            for each in arrays:
                array = <tuple>each  # or what is made of one
                path = array[0]
                part = <tuple>parts[path]
                nodes[2 * node] = part[0]
                nodes[2 * node + 1] = 0
                if array[3]:
                    buffers[count].place = places + 2 * count
                    count += 1
                    node += 1
                    continue
                held = <list>part[1]
                if len(held) > MOST_BUFFERS:
                    raise ValueError(f"{len(held)} buffers of {path}")
                for at in range(<size_t>len(held)):
                    memory = held[at]
                    buffer = &buffers[count]
                    buffer.place = places + 2 * count
                    count += 1
                    if memory is None:
                        continue
                    buffer.data = <const uint8_t*><uintptr_t>memory[0]
                    buffer.size = memory[1]
                    if len(memory) == 3:
                        buffer.kind = ZSTD_AS_RUNS
                        buffer.count = memory[2]
                    elif at == 0:
                        buffer.kind = ZSTD_AS_VALIDITY
                        buffer.count = nodes[2 * node]
                        buffer.nulls = nodes + 2 * node + 1
                    elif at == 1 and array[2]:
                        buffer.kind = ZSTD_AS_OFFSETS
                    elif at == 1:
                        buffer.kind = ZSTD_AS_ELEMENTS
                        buffer.width = array[1]
                    elif len(<tuple>held[1]) == 2:
                        buffer.kind = ZSTD_AS_TEXT
                        buffer.beside = <const void*><uintptr_t>held[1][0]
                        buffer.count = held[1][1] // 4
                node += 1
            at = 0
            while True:
                with nogil:
                    at = zstd_body(buffers, at, count, self._packed.work, &self._packed.out)
                if self._packed.out.no_memory:
                    raise MemoryError("no memory to compress a message")
                if at == count:
                    break
                frame = compress(<uintptr_t>buffers[at].data, buffers[at].size)
                zstd_body_put(
                    &buffers[at], <const uint8_t*>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), &self._packed.out
                )
                if self._packed.out.no_memory:
                    raise MemoryError("no memory to compress a message")
                at += 1
            self.places = PyBytes_FromStringAndSize(<const char*>places, 16 * count)
        finally:
            free(places)
            free(buffers)

    def __dealloc__(self):
        packed_leave(&self._packed)

    def __len__(self) -> int:
        return self._packed.out.size

    def __getbuffer__(self, Py_buffer* view, int flags):
        cdef ZstdOut* out = &self._packed.out
        PyBuffer_FillInfo(view, self, out.data if out.size else NOTHING, out.size, True, flags)
