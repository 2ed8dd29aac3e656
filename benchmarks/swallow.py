"""A remote for forwarders: takes OTLP/gRPC, OTLP/HTTP and Arrow Flight, looks at nothing, says OK."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator

import grpc
import uvloop
from aiohttp import web

_PUT = "/arrow.flight.protocol.FlightService/DoPut"


class _Anything(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        if handler_call_details.method == _PUT:
            return grpc.stream_stream_rpc_method_handler(_put)
        return grpc.unary_unary_rpc_method_handler(_export)


async def _export(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return b""


async def _put(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
    async for _message in messages:
        pass
    yield b"\x0a\x02{}"


async def _post(request: web.Request) -> web.Response:
    async for _piece in request.content.iter_any():
        pass
    return web.Response(body=b"", content_type="application/x-protobuf")


async def serve(grpc_port: int, http_port: int) -> None:
    """Serve on ``localhost`` until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    app = web.Application()
    app.router.add_post("/v1/{signal}", _post)
    runner = web.AppRunner(app, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "localhost", http_port).start()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((_Anything(),))
    server.add_insecure_port(f"localhost:{grpc_port}")
    await server.start()
    await stopping.wait()
    await server.stop(1)
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(serve(arguments.grpc_port, arguments.http_port))
