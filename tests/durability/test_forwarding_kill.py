"""A remote that does everything wrong and a sidecar that is killed meanwhile: what was acknowledged arrives."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path

import aiohttp
import grpc
import pytest

from otlp_arrow.model import Signal
from remotes import SERVERS, Answer, Drop, Refuse, Server, all_ids, spans
from served import Served

Code = grpc.StatusCode
SETTINGS = {
    "enabled": True,
    "timeout_secs": 1,
    "max_batch_bytes": 20_000,
    "retry": {"initial_interval_secs": 0.05, "max_interval_secs": 0.5},
    "breaker": {"failures": 3, "open_secs": 0.3},
}


def in_trouble(rng: random.Random) -> Callable[[int, Signal, bytes], Answer]:
    """Every fifth request fails, now and then in another way."""
    troubles: list[Answer] = [
        Refuse(Code.UNAVAILABLE),
        Refuse(Code.RESOURCE_EXHAUSTED, after_s=0.1),
        Refuse(Code.UNAVAILABLE, after_s=0.1),
        Refuse(Code.UNAVAILABLE, after_s=1, date=True),
        Drop(),
    ]
    return lambda n, signal, payload: rng.choice(troubles) if n % 5 == 0 else None


class Sender:
    """Sends until it is told to stop, keeps what was acknowledged, and tries again what was not."""

    def __init__(self) -> None:
        self.port = 0
        self.acknowledged: list[bytes] = []
        self._stopped = False

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while not self._stopped:
                payload = spans(10)
                try:
                    async with session.post(
                        f"http://localhost:{self.port}/v1/traces",
                        data=payload,
                        headers={"Content-Type": "application/x-protobuf"},
                    ) as reply:
                        if reply.status == 200:
                            self.acknowledged.append(payload)
                except (aiohttp.ClientError, TimeoutError):
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stopped = True


async def go_through(server: Server, directory: Path, *, down_s: float, kills: int, between_s: float) -> None:
    forwarding = {**SETTINGS, "endpoint_url": server.url, "protocol": server.transport}
    arguments = [f"--set=forwarding.{path}={value}" for path, value in _flat(forwarding).items()]
    senders = [Sender() for _ in range(3)]
    sending: list[asyncio.Task[None]] = []
    rng = random.Random(7)
    server.remote.decide = in_trouble(rng)
    await server.down()
    served = await asyncio.to_thread(Served(directory, *arguments).__enter__)
    try:
        for sender in senders:
            sender.port = served.http_port
            sending.append(asyncio.create_task(sender.run()))
        await asyncio.sleep(down_s)
        await server.up()
        for _ in range(kills):
            await asyncio.sleep(between_s * rng.uniform(0.5, 1.5))
            served.process.kill()
            await asyncio.to_thread(served.close)
            served = await asyncio.to_thread(Served(directory, *arguments).__enter__)
            for sender in senders:
                sender.port = served.http_port
        await asyncio.sleep(between_s)
        for sender in senders:
            sender.stop()
        await asyncio.gather(*sending)
        acknowledged = all_ids(p for sender in senders for p in sender.acknowledged)
        assert len(acknowledged) > 100
        await server.remote.wait_for(lambda remote: acknowledged <= set(remote.ids), timeout_s=60)
        assert await asyncio.to_thread(served.stop) == 0, served.text
    finally:
        for sender in senders:
            sender.stop()
        await asyncio.to_thread(served.close)


def _flat(tree: dict[str, object], prefix: str = "") -> dict[str, str]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value).strip('"')
    return flat


@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.transport)
async def test_every_acknowledged_record_arrives_whatever_the_remote_does_and_however_often_we_die(
    kind: type[Server], tmp_path: Path
):
    async with kind() as server:
        await go_through(server, tmp_path, down_s=0.5, kills=1, between_s=0.6)


@pytest.mark.soak
@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.transport)
async def test_the_same_with_a_remote_that_is_down_for_the_first_minute(kind: type[Server], tmp_path: Path):
    async with kind() as server:
        await go_through(server, tmp_path, down_s=60, kills=10, between_s=3)
