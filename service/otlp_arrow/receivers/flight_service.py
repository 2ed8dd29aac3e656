"""What the methods of the Flight protocol do, whoever serves them (``flight``, ``flight_aio``).

A ``PutResult`` is sent for every batch in order, when that batch is durable::

    {"rows": 512, "sequence": 17}

A batch that is refused ends the stream with its reason; every one before it is acknowledged first. Batches after it
that were under way may have been kept, as with any request whose answer did not arrive.

Bounds, and who keeps them:

* Size of a message: the server, from its length, before it is in memory.
* Size after decompression: ``flight_ingest``, from what the message claims, before anything is inflated.
* Memory of messages and batches: the intake, from the moment a message is there.
* Batches of one stream that wait for the disk: ``FLIGHT_PUTS_IN_FLIGHT``; then HTTP/2 holds the client back.
* Readers: ``MAX_FLIGHT_READS``, each with one record batch of a file in memory, as long as it takes a message in
  ``FLIGHT_STALL_S``.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from otlp_arrow.model import Batch, Busy, Closed, NotPlain, Receipt, Rejected, Signal, limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import flight_wire as wire
from otlp_arrow.receivers.flight_ingest import IncomingStream
from otlp_arrow.receivers.flight_query import Piece, Query, answer, parse_query, query_of, schema_message, signal_of
from otlp_arrow.receivers.in_flight import InFlight
from otlp_arrow.receivers.inflating import Reservation
from otlp_arrow.receivers.intake import Intake, Ticket
from otlp_arrow.storage.snapshot import Snapshot

SERVICE = "arrow.flight.protocol.FlightService"
DOOR = ("flight", "grpc")
ACTIONS = {
    "flush": "Write everything accepted so far into segments; answers when they are synced.",
    "health": "The health of the collector, as JSON.",
}

MESSAGE_OVERHEAD_BYTES = limits.MIB
"""Beside the body, a message holds metadata of a few kilobytes."""

T = TypeVar("T")


class Stored(Protocol):
    """What the door needs of storage."""

    async def snapshot(self, signal: Signal) -> Snapshot:
        """Everything acknowledged at one moment."""

    def stored_size(self, signal: Signal) -> tuple[int, int]:
        """Rows, and the bytes that they take on disk."""

    async def flush(self) -> None:
        """Everything accepted before the call is in a segment when it returns."""


class Call(Protocol):
    """A call that is answered with messages."""

    async def write(self, *parts: bytes | memoryview) -> None:
        """One message, in parts. Returns when the client, or what lies between, has taken it."""


class PutCall(Protocol):
    """A ``DoPut`` as its ``Put`` sees it."""

    def acknowledge(self, result: bytes) -> bool:
        """Send a ``PutResult``. False: the client takes no further one now; ``Put.go_on`` when it does."""

    def consumed(self, nbytes: int) -> None:
        """So many bytes of messages are taken care of: the client may send as many again."""

    def lay_out(self, page_at: int) -> None:
        """This byte of the messages to come had best lie where a page of memory begins."""

    def ignore(self) -> None:
        """Whatever still comes in is of no use."""

    def finish(self, error: Exception | None) -> None:
        """End the call; with a refusal if there is an error."""

    async def inflated(self, message: bytes, reservation: Reservation) -> bytes:
        """A message that came compressed, as it was before."""


Method = Callable[[bytes, Call], Awaitable[None]]


class FlightService:
    """The methods, and what they share. ``close`` lets go of the threads."""

    def __init__(
        self,
        intake: Intake[Any],
        stored: Stored,
        meter: Meter,
        health: Callable[[], Mapping[str, Any]],
        max_bytes: int,
    ) -> None:
        self.intake = intake
        self.meter = meter
        self.max_bytes = max_bytes
        self.in_flight = InFlight()
        self.reads = asyncio.Semaphore(limits.MAX_FLIGHT_READS)
        self._stored = stored
        self._health = health
        self._readers = ThreadPoolExecutor(limits.MAX_FLIGHT_READS, thread_name_prefix="otlp-flight")
        self.methods: dict[str, Method] = {
            "DoGet": self._do_get,
            "ListFlights": self._list_flights,
            "GetFlightInfo": self._get_flight_info,
            "GetSchema": self._get_schema,
            "DoAction": self._do_action,
            "ListActions": self._list_actions,
        }
        """Those that have one message in, by name; on the wire a single answer is a stream of one."""

    def close(self) -> None:
        self._readers.shutdown(wait=False)

    async def _do_get(self, message: bytes, call: Call) -> None:
        query = parse_query(wire.read_ticket(message))
        async with self._place_to_read():
            snapshot = await _in_time(self._stored.snapshot(query.signal), "a snapshot")
            pieces = answer(query, snapshot)
            try:
                while (piece := await self._pull(pieces)) is not None:
                    await _before_it_stalls(call.write(*piece))
            finally:
                pieces.close()

    @asynccontextmanager
    async def _place_to_read(self) -> AsyncIterator[None]:
        await _in_time(self.reads.acquire(), "the other readers")
        try:
            yield
        finally:
            self.reads.release()

    async def _pull(self, pieces: Iterator[Piece]) -> Piece | None:
        work = asyncio.get_running_loop().run_in_executor(self._readers, next, pieces, None)
        return await _to_its_end(work)  # a generator that runs cannot be closed

    async def _list_flights(self, _criteria: bytes, call: Call) -> None:
        for signal in Signal:
            await call.write(self._info(Query(signal)))

    async def _get_flight_info(self, message: bytes, call: Call) -> None:
        await call.write(self._info(query_of(wire.read_descriptor(message))))

    async def _get_schema(self, message: bytes, call: Call) -> None:
        query = query_of(wire.read_descriptor(message))
        await call.write(wire.schema_result(schema_message(query.schema)))

    def _info(self, query: Query) -> bytes:
        rows, nbytes = self._stored.stored_size(query.signal) if query.whole else (-1, -1)
        descriptor = wire.path_descriptor(query.signal.value)
        return wire.info(schema_message(query.schema), descriptor, query.to_json(), rows, nbytes)

    async def _do_action(self, message: bytes, call: Call) -> None:
        name, _body = wire.read_action(message)
        if name == "flush":
            await _in_time(self._stored.flush(), "the disk")
            await call.write(wire.result(b"{}"))
        elif name == "health":
            await call.write(wire.result(json.dumps(self._health()).encode()))
        else:
            raise Rejected(f"no action {name[:100]!r}; there are {', '.join(ACTIONS)}")

    async def _list_actions(self, _empty: bytes, call: Call) -> None:
        for name, description in ACTIONS.items():
            await call.write(wire.action_type(name, description))


class _Message:
    """One that came and was not looked at yet."""

    __slots__ = ("compressed", "content", "ticket")

    def __init__(self, content: bytes | memoryview, ticket: Ticket, compressed: bool) -> None:
        self.content = content
        self.ticket = ticket
        self.compressed = compressed


class Put:
    """One ``DoPut``. No task is made for it: a message that comes and a batch that is durable move it on.

    ``message``, ``end`` and ``refuse`` are what comes in, in this order; ``abandon`` ends it at any time. It ends by
    ``PutCall.finish`` otherwise. It counts as in flight until nothing of it is under way any more.
    """

    __slots__ = (
        "_as_they_came",
        "_asked",
        "_awaited",
        "_call",
        "_coming",
        "_dictionaries",
        "_finished",
        "_full",
        "_heard_all",
        "_looking",
        "_service",
        "_signal",
        "_stream",
        "_under_way",
    )

    def __init__(self, service: FlightService, call: PutCall) -> None:
        self._service = service
        self._call = call
        self._signal = Signal.TRACES
        self._stream: IncomingStream | None = None  # from the first message on
        self._dictionaries: Ticket | None = None
        self._asked = False  # the intake will say when to look at what came
        self._coming: deque[_Message | Exception | None] = deque()  # None: the client has sent all
        self._under_way: deque[asyncio.Future[Receipt] | Receipt | Exception | None] = deque()
        self._as_they_came: dict[asyncio.Future[Receipt], Batch] = {}  # under way, and perhaps to be cast yet
        self._awaited: asyncio.Future[Receipt] | None = None  # the oldest that is under way
        self._looking: asyncio.Task[None] | None = None  # at a message, beside the loop; the others wait for it
        self._heard_all = False
        self._full = False  # the client takes no acknowledgement just now
        self._finished = False
        service.in_flight.__enter__()

    # -- what comes in ---------------------------------------------------------------------------------
    def message(self, content: bytes | memoryview, compressed: bool = False) -> None:
        """One more ``FlightData``."""
        if self._heard_all:
            return
        try:
            ticket = self._service.intake.admit(len(content))
        except Exception as error:
            self.refuse(error)
            return
        self._coming.append(_Message(content, ticket, compressed))
        if not self._asked:
            self._asked = True
            self._service.intake.when_ready(self._go_on_looking)

    def _go_on_looking(self) -> None:
        self._asked = False
        if not self._finished:
            self._advance()

    def end(self) -> None:
        """The client has sent all."""
        if not self._heard_all:
            self._heard_all = True
            self._coming.append(None)
            self._advance()

    def refuse(self, error: Exception) -> None:
        """Take no further message: the call ends with ``error`` when what came before is acknowledged."""
        if not self._heard_all:
            self._heard_all = True
            self._call.ignore()
            self._coming.append(error)
            self._advance()

    def go_on(self) -> None:
        """The client takes acknowledgements again."""
        self._full = False
        self._advance()

    def abandon(self) -> None:
        """Stop what is still under way; nobody will be told how it ended."""
        if self._finished:
            return
        self._service.meter.add(REQUESTS, 1, *DOOR, "cancelled")
        self._close()

    # -- on its way ------------------------------------------------------------------------------------
    def _advance(self) -> None:
        """Look at what came, as far as ``FLIGHT_PUTS_IN_FLIGHT`` goes."""
        coming, under_way = self._coming, self._under_way
        while True:
            while coming and self._looking is None and len(under_way) < limits.FLIGHT_PUTS_IN_FLIGHT:
                item = coming.popleft()
                if isinstance(item, _Message):
                    self._look(item)
                else:
                    under_way.append(item)
            if not self._settle() or not coming:
                return

    def _look(self, message: _Message) -> None:
        content, stream = message.content, self._stream
        held = stream.dictionary_bytes if stream is not None else 0
        if message.compressed or len(content) + held > limits.FLIGHT_INLINE_BYTES:
            self._looking = asyncio.get_running_loop().create_task(self._look_beside(message))
            self._looking.add_done_callback(functools.partial(self._looked, message))
            return
        try:
            data = wire.read_data(content)
            if stream is None:
                self._open(data)
            elif data.header:  # else: application metadata without data
                self._lay_out(data)
                self._accept(message, stream.take(data.header, data.body))
        except Exception as error:
            self._fail(error)
        finally:
            message.ticket.release()  # of no effect once the intake has it
            self._call.consumed(len(content))

    def _lay_out(self, data: wire.Data) -> None:
        """The batches to come had best lie as this one would have to, to be written from where it is."""
        if len(data.body) >= limits.IN_PLACE_BYTES:  # not a dictionary's: they come between batches
            self._call.lay_out(data.body_at)

    async def _look_beside(self, message: _Message) -> None:
        """The same for a message that takes long: compressed, or large."""
        content = message.content
        if message.compressed:
            message.ticket.release()
            reservation = Reservation(self._service.intake, len(content))
            message.ticket = reservation.ticket
            content = await self._call.inflated(bytes(content), reservation)
        data = wire.read_data(content)
        if self._stream is None:
            self._open(data)
        elif data.header:
            if not message.compressed:
                self._lay_out(data)
            work = asyncio.get_running_loop().run_in_executor(None, self._stream.take, data.header, data.body)
            taken = await _to_its_end(work)
            if not self._finished:
                self._accept(message, taken)

    def _looked(self, message: _Message, looking: asyncio.Task[None]) -> None:
        message.ticket.release()
        self._looking = None
        if self._finished:
            self._leave()
            return
        if (error := None if looking.cancelled() else looking.exception()) is not None:
            self._fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        self._call.consumed(len(message.content))
        self._advance()

    def _open(self, data: wire.Data) -> None:
        if data.descriptor is None:
            raise Rejected("DoPut begins with a descriptor whose path is traces, metrics or logs")
        self._signal = signal_of(wire.read_descriptor(data.descriptor).path)
        self._stream = IncomingStream(self._signal, data.header, self._service.max_bytes)

    def _accept(self, message: _Message, batch: Batch | None) -> None:
        """Hand a batch over to the intake, and its ticket."""
        if batch is None:
            self._hold_dictionaries()
            return
        if batch.columns is not None and not batch.columns.num_rows:
            self._under_way.append(Receipt(0))
            return
        more = len(batch.payload) - len(message.content)
        if more > (0 if batch.columns is not None else MESSAGE_OVERHEAD_BYTES):  # cast, or with columns put to it
            message.ticket.grow(more)
        ticket, message.ticket = message.ticket, _GIVEN
        future = self._service.intake.submit(batch, ticket)
        self._under_way.append(future)
        if batch.message is not None:
            self._as_they_came[future] = batch

    async def _cast(self, stream: IncomingStream, batch: Batch) -> Receipt:
        """Keep a batch that the kernel did not take as it came. Raises what is wrong with it."""
        cast = stream.cast_again(batch)
        if len(batch.payload) > limits.FLIGHT_INLINE_BYTES:
            batch = await _to_its_end(asyncio.get_running_loop().run_in_executor(None, cast))
        else:
            batch = cast()
        assert batch.columns is not None
        return await self._service.intake.accept(batch) if batch.columns.num_rows else Receipt(0)

    def _hold_dictionaries(self) -> None:
        assert self._stream is not None
        held = self._service.intake.admit(self._stream.dictionary_bytes)
        if self._dictionaries is not None:
            self._dictionaries.release()
        self._dictionaries = held

    def _fail(self, error: Exception) -> None:
        """A message is refused: those behind it are not looked at."""
        self._heard_all = True
        self._call.ignore()
        self._drop_coming()
        self._under_way.append(error)

    # -- and out ---------------------------------------------------------------------------------------
    def _kept(self, future: asyncio.Future[Receipt]) -> None:
        """Callback of the oldest batch; those of its group are settled with it."""
        if not self._finished:
            self._advance()
        elif not future.cancelled():
            future.exception()  # looked at: nobody else will

    def _settle(self) -> int:
        """Acknowledge what is durable, in order; how many batches."""
        under_way = self._under_way
        acknowledged = 0
        while under_way and not self._full and not self._finished:
            item = under_way[0]
            if isinstance(item, asyncio.Future):
                if not item.done():
                    if item is not self._awaited:  # a callback takes the loop as long as a batch does here
                        self._awaited = item
                        item.add_done_callback(self._kept)
                    break
                batch = self._as_they_came.pop(item, None)
                item = _outcome(item)
                if batch is not None and isinstance(item, NotPlain):
                    assert self._stream is not None
                    under_way[0] = asyncio.get_running_loop().create_task(self._cast(self._stream, batch))
                    continue
            under_way.popleft()
            if isinstance(item, Receipt):
                acknowledged += 1
                result = b'{"rows": %d, "sequence": %d}' % (item.rows, item.sequence)
                self._full = not self._call.acknowledge(wire.put_result(result))
            elif item is None and self._stream is None:
                self._finish(Rejected("the call ended without a message, or its message is over the limit"))
            else:
                self._finish(item)
        if acknowledged:
            self._service.meter.add(REQUESTS, acknowledged, *DOOR, "ok")
        return acknowledged

    def _finish(self, error: Exception | None) -> None:
        self._close()
        self._call.finish(error)

    def _close(self) -> None:
        self._finished = self._heard_all = True
        self._drop_coming()
        for item in self._under_way:
            if isinstance(item, asyncio.Future) and not item.cancel() and not item.cancelled():
                item.exception()  # looked at: nobody else will
        self._under_way.clear()
        self._as_they_came.clear()
        if self._looking is not None:
            self._looking.cancel()  # and then it leaves
        else:
            self._leave()

    def _leave(self) -> None:
        if self._dictionaries is not None:
            self._dictionaries.release()
            self._dictionaries = None
        self._stream = None
        self._service.in_flight.__exit__()

    def _drop_coming(self) -> None:
        for item in self._coming:
            if isinstance(item, _Message):
                item.ticket.release()
        self._coming.clear()


class _Given:
    """In place of a ticket that the intake has taken over."""

    def grow(self, nbytes: int) -> None:
        raise AssertionError("the ticket was given away")

    def release(self) -> None:
        """Nothing is left to be released."""


_GIVEN = _Given()


def _outcome(future: asyncio.Future[Receipt]) -> Receipt | Exception:
    if future.cancelled():
        return Closed("the collector is stopping")
    error = future.exception()
    if error is None:
        return future.result()
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


class Stalled(Busy):
    """The client does not read its answer."""


async def _to_its_end(work: asyncio.Future[T]) -> T:
    """The result of work in a thread; a cancellation waits for it, as what it uses is still in use."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


async def _before_it_stalls(writing: Awaitable[None]) -> None:
    """One message out. A reader that takes none of it would keep its place, and its files, for as long as it likes."""
    try:
        async with asyncio.timeout(limits.FLIGHT_STALL_S):
            await writing
    except TimeoutError:
        reason = "the reader took nothing for too long; read faster, or ask for a shorter time range"
        raise Stalled(reason, 1.0) from None


async def _in_time(work: Awaitable[T], what: str) -> T:
    """Raises ``Busy`` if it takes longer than a reader should wait."""
    try:
        async with asyncio.timeout(limits.FLIGHT_WAIT_S):
            return await work
    except TimeoutError:
        raise Busy(f"waited {limits.FLIGHT_WAIT_S:.0f} s for {what}") from None
