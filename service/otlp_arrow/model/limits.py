"""Every bound, with its reason. What a user may set stands in the settings; these are fixed."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

MAX_REQUEST_BYTES = 64 * MIB
"""Default ceiling of one request after decompression: what the OTLP specification recommends."""

MAX_REPLY_BYTES = 4 * MIB
"""The OTLP specification's ceiling of a reply; error messages are cut long before."""

MAX_ERROR_MESSAGE_CHARS = 2_000
"""A partial-success message names the first few rejected records; no client shows more."""

MAX_MESSAGE_DEPTH = 100
"""Nested protobuf messages from the request down: protobuf's own default, so that both decoders
refuse the same input, and far from the depth at which recursion becomes a danger."""

MAX_REPEATED_BYTES = 256 * MIB
"""Bytes that one request may grow by repeating its resources, scopes and metric headers on each
row. Without it 64 MiB of input (one huge resource, a million tiny spans) would ask for terabytes."""

MAX_COLUMN_OFFSET = 2**31 - 2
"""Bytes of text, or members of lists, that one column of a batch may have: Arrow's offsets are signed
32-bit numbers. A request that would pass it is refused whole."""

MAX_HELD_BYTES = GIB
"""Columns that the kernel gathers before a segment takes them. They are sealed at ``SEAL_BYTES``; this is for a
request made to grow: two bytes of an empty attribute are 33 in a row, so that ``MAX_REPEATED_BYTES`` of a
request alone could ask for 4 GiB. A request that would pass it is refused whole."""

MAX_TIME_UNIX_NANO = 2**63 - 1
"""Arrow's timestamps are signed; the year 2262."""

WAL_FILE_BYTES = 64 * MIB
"""A WAL file is closed at this size; small enough that released space returns soon, large enough
that creating one (two directory syncs) is rare: at 200 MB/s three times a second."""

DIRECT_BLOCK_BYTES = 4 * KIB
"""Files past the page cache are written in whole blocks of this size, a page. Disks have blocks of 512 or 4096 bytes;
one with larger ones is written through the page cache."""

DIRECT_WRITE_BYTES = MIB
"""One write past the page cache: what is copied into an aligned buffer at a time. Half of it and twice of it cost
more CPU a byte (decisions/0010)."""

PAST_CACHE_UNIT_BYTES = 256 * KIB
"""A unit of a segment from this size on is written past the page cache: thousands of rows a flush, which would push
everything else out of it and cost a page of memory each 4 KiB. Smaller ones stay where a question finds them."""

IN_PLACE_BYTES = 64 * KIB
"""A piece of a request from this size on is written to the log from where it lies, if it lies at a page; below, copying
it costs less than a piece more in the write."""

FRAME_HEAD_BYTES = 40
"""What stands before the payload of a frame of the log."""

MAX_FRAME_BYTES = GIB
"""A frame that claims more is corrupt; checked before allocating."""

RESYNC_BYTES_PER_BYTE = 8
"""Behind a damaged frame the next one is looked for by its checksum; at most this many bytes are
checksummed for each byte of the file. A payload made of headers that claim megabytes would otherwise cost
hours."""

MAX_GROUP_BYTES = 32 * MIB
"""One group commit decodes and syncs at most about this much, so that the first request of a group
does not wait for hundreds of others; one larger request is a group of its own."""

MAX_GROUP_REQUESTS = 1024
"""The same bound for tiny requests; also the length of one vectored write (IOV_MAX is 1024)."""

COMPANY_WAIT_S = 0.003
"""How long a group of small requests waits for more when the last group was shared: a commit costs some
250 µs of CPU (two thread switches, a system call, a sync) however many requests share it."""

COMPANY_BYTES = 256 * KIB
"""A group of this size does not wait: its decoding outweighs what sharing saves."""

COMPANY_REQUESTS = 64
"""Nor does one of this many requests."""

SEAL_BYTES = 16 * MIB
"""Rows gathered for a segment are sealed at this size even below ``max_batch_rows``: 20,000 spans. Measured at
saturation: the CPU of a span and the bytes of a file as with 64 MiB, a third less memory, twice the throughput
(commits seldom wait for the writer), and a trace is found in half the time."""

MAX_UNWRITTEN_BYTES = 64 * MIB
"""Sealed rows that may wait for the writer before commits pause for it: a few chunks, so that saturation does not
hold ``max_buffer_bytes`` in memory."""

QUIET_S = 1.0
"""Memory of builders goes back to the system when nothing was written for this long. Under load a chunk is
written several times a second."""

HEAP_PIECE_BYTES = 32 * MIB
"""Memory up to this size comes from the heap, where it may lie ready, and not fresh from the system: the most
that glibc takes."""

HEAP_KEPT_BYTES = 64 * MIB
"""Free memory at the end of the heap goes back to the system beyond this: a few large requests' worth."""

MAX_WAIT_FOR_WRITER_S = 1.0
"""How long a commit pauses for the writer; a chunk takes a tenth of that unless the disk is in trouble."""

DECODED_BYTES_PER_BYTE = 3
"""Memory that admission reserves for each byte of a request: its bytes, and the columns made of them
(about 2 bytes of columns a byte for spans of 450 bytes). Replaced by the true size once decoded."""

REFERENCE_DECODED_BYTES_PER_BYTE = 9
"""The same on the reference decoder, whose rows are Python objects."""

ACK_TIMEOUT_S = 8.0
"""A request waits this long for the disk, then its sender is told to come back: SDKs give up after 10 s,
and an answer is better than their timeout."""

DISK_RETRY_S = 1.0
"""While the disk refuses writes, senders are refused at once and the disk is asked again this often."""

DISK_PROBE_BYTES = MIB
"""What the disk must take and sync before requests are let in again; a full disk that frees a few
kilobytes would otherwise flap."""

MAX_WRITE_BACKOFF_S = 10.0
"""Longest pause between two tries to write the same rows to a segment."""

HOUSEKEEPING_INTERVAL_S = 30.0
"""How often segments are looked at for age and retention; the ages are a minute or more."""

MAX_REJECTION_REASONS = 5
"""Rejected records named one by one in a reply; the rest are counted."""

MAX_TRAILER_MESSAGE_BYTES = 1024
"""A gRPC message travels percent-encoded, beside its base64 copy in the details; clients refuse trailers
over 8 KiB, and would then report that instead of our reason."""

MAX_CONCURRENT_STREAMS = 1024
"""Calls in flight on one gRPC connection; collectors use ten. Clients hold further ones back by themselves, but when
many end at once gRPC's server refuses some of those that follow (UNAVAILABLE, so they are sent again):
hence far above what anyone needs. A bound that answers RESOURCE_EXHAUSTED would make senders drop data."""

MAX_NUISANCE_FRAMES = 10_000
"""HTTP/2 frames that bring no request (pings, resets, settings) on one connection within a quarter of a keepalive
interval, each request outweighing two; clients send one or two a request, floods hundreds of thousands."""

HTTP2_STREAM_WINDOW_BYTES = 4 * MIB
"""What a client may send of one request before it hears from us: more than any exporter puts into one."""

HTTP2_CONNECTION_WINDOW_BYTES = 16 * MIB
"""The same of all requests of a connection."""

HTTP2_FRAME_BYTES = 256 * KIB
"""The largest frame taken: a usual request in one."""

MAX_INCOMPLETE_BYTES = 256 * MIB
"""Parts of gRPC messages that have not come whole, on all connections together: four of the largest."""

GRPC_KEEPALIVE_S = 60
"""A connection that is silent this long is asked whether the other side still lives, and closed if no answer
comes within a third of it; machines that vanish would otherwise hold their streams for hours."""

GRPC_MIN_PING_INTERVAL_S = 10
"""Clients may ping this often; gRPC's own bound is five minutes, and cuts off collectors that ping every 30 s."""

HTTP_KEEPALIVE_S = 120
"""An HTTP connection without a whole request head is closed after this long: above the minute between two
exports of metrics, so that a connection is not closed while its client begins to use it."""

MAX_HEADER_BYTES = 16 * KIB
"""One HTTP header field; tokens of identity providers reach 10 KiB."""

BODY_READ_TIMEOUT_S = 30
"""Time for the whole of an HTTP body. SDKs give up after 10 s; a slower body only holds its reservation."""

LINGER_S = 5
"""A body that was refused before it was read is discarded this long, so that the client gets to read the
answer instead of a reset connection."""

MAX_BODY_ENCODINGS = 2
"""Content codings stacked on one body; no exporter uses more than one."""

MAX_GZIP_MEMBERS = 4096
"""Members of one gzip body: block compressors start one each 64 KiB (1024 at the request limit); a body of
millions of empty ones would buy minutes of CPU."""

INFLATE_INLINE_BYTES = 256 * KIB
"""Bodies are inflated on the event loop up to this size (about 0.5 ms), larger ones in a thread."""

INFLATE_STEP_BYTES = 4 * MIB
"""Between two steps of this size the bytes inflated so far are reserved with the intake."""

JSON_INLINE_BYTES = 32 * KIB
"""OTLP/JSON up to this size is read on the event loop; larger bodies take milliseconds and leave it."""

MAX_ARROW_SCHEMA_BYTES = 256 * KIB
"""The schema message of an Arrow client; those of our schemas take 6 KiB."""

FLIGHT_FRAME_BYTES = MIB
"""The largest HTTP/2 frame taken by the Flight door: a usual batch in one, which is then read into its own memory."""

FLIGHT_STREAM_WINDOW_BYTES = 16 * MIB
"""What a Flight client may send before it hears that something was looked at: as many batches of a usual size as may
wait for the disk. With a quarter of it clients send messages in more pieces, and are told of every few of them."""

FLIGHT_CONNECTION_WINDOW_BYTES = 32 * MIB
"""The same of all streams of a connection."""

FLIGHT_INLINE_BYTES = MIB
"""Arrow messages up to this size are looked at on the event loop: those that the kernel takes in some 20 µs, those that
have to be cast in some 2 ms. Larger ones leave it for a thread."""

MAX_FLIGHT_DOUBTS = 8
"""Batches of one DoPut that the kernel did not take as they were; further ones are cast at once, without asking it."""

FLIGHT_PUTS_IN_FLIGHT = 16
"""Batches of one DoPut that wait for the disk together; further ones wait in the client."""

FLIGHT_MESSAGE_BYTES = 2 * MIB
"""Arrow data in one message of DoGet, before compression; clients in Go and Rust refuse messages over 4 MiB."""

MAX_FLIGHT_READS = 4
"""DoGets at a time; each holds one record batch of a segment, some 30 MB, and a thread while it is decoded."""

MAX_TICKET_BYTES = 64 * KIB
"""A ticket or command in JSON; one with every column named takes 1 KiB."""

FLIGHT_WAIT_S = 30.0
"""A reader waits so long for a snapshot, a place or a flush; then it is told to come back."""

FLIGHT_STALL_S = 60.0
"""A reader that takes no message for so long loses its place; 2 MiB in a minute go through any line."""

CALL_TIMEOUT_S = 30.0
"""A call of the library waits so long; above ``ACK_TIMEOUT_S``, so that the disk is blamed first."""

DOOR_GRACE_S = 5
"""Requests in flight get this long when a door closes; each only waits for one group commit."""

HINT_INTERVAL_S = 60
"""The same mistake of a client is logged this often at most."""

EXIT_GRACE_S = 5
"""A process that is still there this long after its shutdown timeout hangs in the disk; it is ended."""

CLOSE_TIMEOUT_S = 2
"""Closing segments and storing the cursor take milliseconds; they get this long even if the time for a
graceful stop is used up."""

SHUTDOWN_TIMEOUT_S = 30
"""Default time for a graceful stop; half of the 60 s that Kubernetes manifests usually grant."""

FRESH_TAIL_BYTES = 32 * MIB
"""Committed requests that forwarders find in memory; at 200 MB/s a sixth of a second. Who is further behind
reads the WAL's files."""

WAL_READ_BYTES = MIB
"""One read of a WAL file by a forwarder: a few large requests, or two thousand small ones."""

FORWARD_BATCH_BYTES = 2 * MIB
"""Default size up to which stored requests are merged into one: below the 4 MiB that many gRPC servers take
by default, and some 4,500 spans."""

FORWARD_FLIGHT_BATCH_BYTES = 3 * MIB
"""The same for Arrow Flight: a DoPut of 130 columns costs 1 ms whatever is in it. As Arrow it is twice as much and some
more, and four are under way; it should stay below ``FLIGHT_PUT_BYTES``, since a larger one goes out in slices, which
takes more CPU."""

FLIGHT_PUT_BYTES = 8 * MIB
"""Arrow data in one record batch of a DoPut: 3 MiB of it as OTLP, so that a gateway that sends it on as OTLP stays
below the 4 MiB of many servers."""

FORWARD_LINGER_S = 0.25
"""A forwarder waits so long for company before it sends a small request on: a request and a DoPut cost 1 ms of
CPU whatever is in them, and collectors batch for 0.2 s and more."""

CURSOR_INTERVAL_S = 1.0
"""A forwarder's cursor is stored this often while it moves: what a kill may make it send twice."""

CURSOR_BYTES = 64 * MIB
"""The same bound in bytes."""

MAX_RETRY_AFTER_S = 600.0
"""A remote that asks for a longer pause is asked again after this one."""

MAX_REFUSED_PARTS = 16
"""A refused batch is halved until the requests that the remote refuses are found. After so many in a row the rest
counts as refused too: a remote that refuses everything is not asked for every single request."""

MAX_REFUSED_BYTES = 256 * MIB
"""What remotes refuse for good is written aside up to this size, all destinations together; beyond it only
counted. The records themselves are in the segments."""

MAX_REMOTE_MESSAGE_CHARS = 300
"""As much of a remote's message is logged and shown."""

LOOK_TIMEOUT_S = 2.0
"""A remote that closes connections without a word is greeted once more, to see whether TLS is the cause; a handshake
takes two round trips."""

LOOK_INTERVAL_S = 30.0
"""It is greeted so often at most, and what was seen counts meanwhile."""

COMPRESS_INLINE_BYTES = 32 * KIB
"""Forwarded bodies up to this size are compressed on the event loop (below a millisecond), others in a thread."""

assert MAX_REQUEST_BYTES <= MAX_REPEATED_BYTES <= MAX_FRAME_BYTES
assert MAX_GROUP_BYTES <= MAX_REPEATED_BYTES
assert DIRECT_WRITE_BYTES % DIRECT_BLOCK_BYTES == 0
assert DIRECT_BLOCK_BYTES <= 2**16  # the padding of a frame is a 16 bit number
# Offsets of one Arrow batch are signed 32 bit: a sealed builder plus one request must stay below.
assert SEAL_BYTES + MAX_REPEATED_BYTES + MAX_GROUP_BYTES + MAX_REQUEST_BYTES * 4 < 2**31
assert DOOR_GRACE_S < SHUTDOWN_TIMEOUT_S
assert ACK_TIMEOUT_S < CALL_TIMEOUT_S
