"""The floor: a grpc.aio server that takes OTLP requests as raw bytes, looks at nothing, and says OK.

What a collector costs above this is its own; what lies below, no Python service on grpc.aio can save.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Awaitable

import grpc
import uvloop

_METHODS = {
    f"/opentelemetry.proto.collector.{package}.v1.{service}/Export"
    for package, service in [("trace", "TraceService"), ("metrics", "MetricsService"), ("logs", "LogsService")]
}


class _Anything(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if handler_call_details.method not in _METHODS:
            return None
        return grpc.unary_unary_rpc_method_handler(_export)


async def _export(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return b""


async def serve(port: int) -> None:
    """Serve on ``localhost`` until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    server.add_generic_rpc_handlers((_Anything(),))
    server.add_insecure_port(f"localhost:{port}")
    await server.start()
    await stopping.wait()
    await server.stop(1)


def _run(work: Awaitable[None]) -> None:
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)  # type: ignore[arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4317)
    _run(serve(parser.parse_args().port))
