"""Arrow Flight: batches in by ``DoPut``, everything stored out by ``DoGet``.

The protocol is served on gRPC's own library rather than by ``pyarrow.flight``, whose server decodes a message
before anybody may look at it (docs/decisions/0007). Bounds, and who keeps them:

* Size of a message: gRPC's library, by ``grpc.max_receive_message_length``, before it is in memory as a whole.
* Size after decompression: ``flight_ingest``, from what the message claims, before anything is inflated.
* Memory of messages and batches: the intake, from the moment a message is there.
* Batches of one stream that wait for the disk: ``FLIGHT_PUTS_IN_FLIGHT``; then HTTP/2 holds the client back.
* Readers: ``MAX_FLIGHT_READS``, each with one record batch of a file in memory, as long as it takes a message in
  ``FLIGHT_STALL_S``.

A ``PutResult`` is sent for every batch in order, when that batch is durable::

    {"rows": 512, "sequence": 17}

A batch that is refused ends the stream with its reason; every one before it is acknowledged first. Batches after it
that were under way may have been kept, as with any request whose answer did not arrive.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
import structlog

from otlp_arrow.model import Batch, Busy, NotPlain, Receipt, Rejected, Signal, limits
from otlp_arrow.model.meter import REQUESTS, Meter
from otlp_arrow.receivers import flight_wire as wire
from otlp_arrow.receivers import replies
from otlp_arrow.receivers.auth import Authenticator
from otlp_arrow.receivers.flight_ingest import IncomingStream
from otlp_arrow.receivers.flight_query import Query, answer, parse_query, query_of, schema_message, signal_of
from otlp_arrow.receivers.grpc_common import Guarded, channel_options, listen, set_status
from otlp_arrow.receivers.intake import Intake, Ticket
from otlp_arrow.receivers.listen import Place
from otlp_arrow.receivers.tls import ServerTls
from otlp_arrow.storage.snapshot import Snapshot

log = structlog.get_logger(__name__)

SERVICE = "arrow.flight.protocol.FlightService"
DOOR = ("flight", "grpc")
ACTIONS = {
    "flush": "Write everything accepted so far into segments; answers when they are synced.",
    "health": "The health of the collector, as JSON.",
}

# Beside the body, a message holds metadata of a few kilobytes.
_MESSAGE_OVERHEAD_BYTES = limits.MIB

T = TypeVar("T")


class Stored(Protocol):
    """What the door needs of storage."""

    async def snapshot(self, signal: Signal) -> Snapshot:
        """Everything acknowledged at one moment."""

    def stored_size(self, signal: Signal) -> tuple[int, int]:
        """Rows, and the bytes that they take on disk."""

    async def flush(self) -> None:
        """Everything accepted before the call is in a segment when it returns."""


class FlightServer:
    """The door for Arrow Flight, open inside ``async with``; leaving lets calls in flight finish.

    ``bound_port`` is the port it got (``port`` 0 takes a free one). ``auth`` guards every method. Opening raises
    ``OtlpServerError`` if the port is not to be had.
    """

    def __init__(
        self,
        intake: Intake[Any],
        stored: Stored,
        *,
        host: str,
        port: int,
        max_request_bytes: int = limits.MAX_REQUEST_BYTES,
        auth: Authenticator | None = None,
        tls: ServerTls | None = None,
        meter: Meter,
        health: Callable[[], Mapping[str, Any]] = dict,
        grace_s: float = limits.DOOR_GRACE_S,
    ) -> None:
        self._place = Place("Arrow Flight", host, port, "protocols.arrow_flight_port")
        self._tls = tls
        self._grace_s = grace_s
        self._options = channel_options(
            max_receive_bytes=max_request_bytes + _MESSAGE_OVERHEAD_BYTES, max_send_bytes=-1
        )
        self._service = _FlightService(intake, stored, meter, health, max_request_bytes)
        self._handler = self._service if auth is None else Guarded(self._service, auth, meter, DOOR)
        self._server: grpc.aio.Server | None = None
        self.bound_port = 0

    async def __aenter__(self) -> FlightServer:
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers([self._handler])
        self.bound_port = listen(server, self._place, self._tls)
        self._server = server
        try:
            await server.start()
        except BaseException:
            await server.stop(None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        await self._server.stop(self._grace_s)
        # What outlived the grace was cancelled; the library does not wait for it to notice.
        async with asyncio.timeout(self._grace_s + limits.DOOR_GRACE_S):
            await self._service.idle.wait()
        self._service.close()


class _FlightService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods of the Flight protocol."""

    def __init__(
        self,
        intake: Intake[Any],
        stored: Stored,
        meter: Meter,
        health: Callable[[], Mapping[str, Any]],
        max_bytes: int,
    ) -> None:
        self._intake = intake
        self._stored = stored
        self._meter = meter
        self._health = health
        self._max_bytes = max_bytes
        self._reads = asyncio.Semaphore(limits.MAX_FLIGHT_READS)
        self._readers = ThreadPoolExecutor(limits.MAX_FLIGHT_READS, thread_name_prefix="otlp-flight")
        self._in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._methods = {
            f"/{SERVICE}/{name}": handler
            for name, handler in {
                "DoPut": grpc.stream_stream_rpc_method_handler(self._served(self._do_put)),
                "DoGet": grpc.unary_stream_rpc_method_handler(self._served(self._do_get)),
                "ListFlights": grpc.unary_stream_rpc_method_handler(self._served(self._list_flights)),
                "GetFlightInfo": grpc.unary_stream_rpc_method_handler(self._served(self._get_flight_info)),
                "GetSchema": grpc.unary_stream_rpc_method_handler(self._served(self._get_schema)),
                "DoAction": grpc.unary_stream_rpc_method_handler(self._served(self._do_action)),
                "ListActions": grpc.unary_stream_rpc_method_handler(self._served(self._list_actions)),
            }.items()
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(details.method)

    def close(self) -> None:
        """Let go of the threads."""
        self._readers.shutdown(wait=False)

    def _served(
        self, method: Callable[[Any, grpc.aio.ServicerContext], Awaitable[None]]
    ) -> Callable[[Any, grpc.aio.ServicerContext], Awaitable[None]]:
        """``method`` with its errors as answers. On the wire a single answer is a stream of one."""

        async def serve(request: Any, call: grpc.aio.ServicerContext) -> None:
            self._in_flight += 1
            self.idle.clear()
            try:
                await method(request, call)
            except (asyncio.CancelledError, grpc.aio.BaseError):  # the client went away, or a stop has no more time
                self._meter.add(REQUESTS, 1, *DOOR, "cancelled")
                raise
            except Exception as error:
                refused = replies.refusal(error)
                if refused.outcome == "failed":
                    log.error("a Flight call failed for a reason of our own", exc_info=error)
                self._meter.add(REQUESTS, 1, *DOOR, refused.outcome)
                set_status(call, refused)
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self.idle.set()

        return serve

    # -- in --------------------------------------------------------------------------------------

    async def _do_put(self, _messages: Any, call: grpc.aio.ServicerContext) -> None:
        message = await call.read()
        if message is grpc.aio.EOF:
            raise Rejected("the call ended without a message, or its message is over the limit")
        first = wire.read_data(message)
        if first.descriptor is None:
            raise Rejected("DoPut begins with a descriptor whose path is traces, metrics or logs")
        signal = signal_of(wire.read_descriptor(first.descriptor).path)
        put = _Put(self._intake, signal, IncomingStream(signal, first.header, self._max_bytes))
        reading = asyncio.create_task(put.read(call))
        try:
            while (receipt := await put.next_receipt()) is not None:
                self._meter.add(REQUESTS, 1, *DOOR, "ok")
                await call.write(wire.put_result(b'{"rows": %d, "sequence": %d}' % (receipt.rows, receipt.sequence)))
        finally:
            reading.cancel()
            await put.abandon(reading)

    # -- out -------------------------------------------------------------------------------------

    async def _do_get(self, message: bytes, call: grpc.aio.ServicerContext) -> None:
        query = parse_query(wire.read_ticket(message))
        async with self._place_to_read():
            snapshot = await _in_time(self._stored.snapshot(query.signal), "a snapshot")
            pieces = answer(query, snapshot)
            try:
                while (piece := await self._pull(pieces)) is not None:
                    await _before_it_stalls(call.write(piece))
            finally:
                pieces.close()

    @asynccontextmanager
    async def _place_to_read(self) -> AsyncIterator[None]:
        await _in_time(self._reads.acquire(), "the other readers")
        try:
            yield
        finally:
            self._reads.release()

    async def _pull(self, pieces: Iterator[bytes]) -> bytes | None:
        work = asyncio.get_running_loop().run_in_executor(self._readers, next, pieces, None)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])  # a generator that runs cannot be closed
            raise

    async def _list_flights(self, _criteria: bytes, call: grpc.aio.ServicerContext) -> None:
        for signal in Signal:
            await call.write(self._info(Query(signal)))

    async def _get_flight_info(self, message: bytes, call: grpc.aio.ServicerContext) -> None:
        await call.write(self._info(query_of(wire.read_descriptor(message))))

    async def _get_schema(self, message: bytes, call: grpc.aio.ServicerContext) -> None:
        query = query_of(wire.read_descriptor(message))
        await call.write(wire.schema_result(schema_message(query.schema)))

    def _info(self, query: Query) -> bytes:
        rows, nbytes = self._stored.stored_size(query.signal) if query.whole else (-1, -1)
        descriptor = wire.path_descriptor(query.signal.value)
        return wire.info(schema_message(query.schema), descriptor, query.to_json(), rows, nbytes)

    # -- actions ---------------------------------------------------------------------------------

    async def _do_action(self, message: bytes, call: grpc.aio.ServicerContext) -> None:
        name, _body = wire.read_action(message)
        if name == "flush":
            await _in_time(self._stored.flush(), "the disk")
            await call.write(wire.result(b"{}"))
        elif name == "health":
            await call.write(wire.result(json.dumps(self._health()).encode()))
        else:
            raise Rejected(f"no action {name[:100]!r}; there are {', '.join(ACTIONS)}")

    async def _list_actions(self, _empty: bytes, call: grpc.aio.ServicerContext) -> None:
        for name, description in ACTIONS.items():
            await call.write(wire.action_type(name, description))


class _Put:
    """One ``DoPut``: reads ahead of the acknowledgements, as far as ``FLIGHT_PUTS_IN_FLIGHT`` goes."""

    def __init__(self, intake: Intake[Any], signal: Signal, stream: IncomingStream) -> None:
        self._intake = intake
        self._signal = signal
        self._stream = stream
        self._window: asyncio.Queue[asyncio.Future[Receipt] | Exception | None] = asyncio.Queue(
            limits.FLIGHT_PUTS_IN_FLIGHT
        )
        self._accepting: set[asyncio.Future[Receipt]] = set()
        self._dictionaries: Ticket | None = None

    async def read(self, call: grpc.aio.ServicerContext) -> None:
        """Hand over batch after batch; an error takes its place in the order of the acknowledgements."""
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                batch = await self._take(message)
                if batch is not None:
                    await self._window.put(self._accept(*batch))
            await self._window.put(None)
        except Exception as error:
            await self._window.put(error)

    async def _take(self, message: bytes) -> tuple[Batch, Ticket] | None:
        ticket = self._intake.admit(len(message))
        try:
            data = wire.read_data(message)
            if not data.header:  # application metadata without data
                return None
            work = functools.partial(self._stream.take, data.header, data.body)
            inline = len(message) + self._stream.dictionary_bytes <= limits.FLIGHT_INLINE_BYTES
            taken = work() if inline else await asyncio.to_thread(work)
            if taken is None:
                self._hold_dictionaries()
                return None
            more = len(taken.payload) - len(message) if taken.columns is not None else 0
            if more > 0:
                ticket.grow(more)
            kept, ticket = ticket, None
            return taken, kept
        finally:
            if ticket is not None:
                ticket.release()

    def _hold_dictionaries(self) -> None:
        held = self._intake.admit(self._stream.dictionary_bytes)
        if self._dictionaries is not None:
            self._dictionaries.release()
        self._dictionaries = held

    async def _keep(self, batch: Batch, ticket: Ticket) -> Receipt:
        try:
            return await self._intake.accept(batch, ticket)
        except NotPlain:
            cast = await asyncio.to_thread(self._stream.cast_again(batch))
            return await self._intake.accept(cast)

    def _accept(self, batch: Batch, ticket: Ticket) -> asyncio.Future[Receipt]:
        accepting: asyncio.Future[Receipt]
        if batch.columns is None or batch.columns.num_rows:
            accepting = asyncio.ensure_future(self._keep(batch, ticket))
        else:
            ticket.release()
            accepting = asyncio.get_running_loop().create_future()
            accepting.set_result(Receipt(0))
        self._accepting.add(accepting)
        return accepting

    async def next_receipt(self) -> Receipt | None:
        """The next acknowledgement, None at the end. Raises what the batch was refused for."""
        item = await self._window.get()
        if isinstance(item, Exception):
            raise item
        if item is None:
            return None
        receipt = await item
        self._accepting.discard(item)
        return receipt

    async def abandon(self, reading: asyncio.Task[None]) -> None:
        """Stop what is still under way; nobody will be told how it ended."""
        for accepting in self._accepting:
            accepting.cancel()
        try:
            await asyncio.gather(reading, *self._accepting, return_exceptions=True)
        finally:  # a client that goes away while the server stops cancels a second time
            if self._dictionaries is not None:
                self._dictionaries.release()


async def _before_it_stalls(writing: Awaitable[None]) -> None:
    """One message out. A reader that takes none of it would keep its place, and its files, for as long as it likes."""
    try:
        async with asyncio.timeout(limits.FLIGHT_STALL_S):
            await writing
    except TimeoutError:
        raise Busy("the reader took nothing for too long; read faster, or ask for a shorter time range", 1.0) from None


async def _in_time(work: Awaitable[T], what: str) -> T:
    """Raises ``Busy`` if it takes longer than a reader should wait."""
    try:
        async with asyncio.timeout(limits.FLIGHT_WAIT_S):
            return await work
    except TimeoutError:
        raise Busy(f"waited {limits.FLIGHT_WAIT_S:.0f} s for {what}") from None
