"""A remote that does everything wrong and a sidecar that is killed meanwhile: what was acknowledged arrives."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from pathlib import Path

import aiohttp
import grpc
import pytest

from otlp_arrow.codec import decode
from otlp_arrow.model import Signal
from records import ids_of, request
from remotes import SERVERS, Answer, Drop, Refuse, Remote, Server, Slow
from served import Served

Code = grpc.StatusCode
SETTINGS = {
    "enabled": True,
    "timeout_secs": 1,
    "max_batch_bytes": 8_000,
    "retry": {"initial_interval_secs": 0.05, "max_interval_secs": 0.5},
    "breaker": {"failures": 3, "open_secs": 0.3},
}


TROUBLES: tuple[Answer, ...] = (
    Refuse(Code.UNAVAILABLE),
    Slow(0.4),
    Refuse(Code.RESOURCE_EXHAUSTED, after_s=0.1),  # RetryInfo; 429 with Retry-After
    Drop(),
    Refuse(Code.UNAVAILABLE, after_s=0.1),  # 503 with Retry-After
    Slow(1.5),  # longer than the timeout: taken, and nobody hears of it
    Refuse(Code.UNAVAILABLE, after_s=1, date=True),
)


class Troubles:
    """Every fifth request fails, each time in another way."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, number: int, signal: Signal, payload: bytes) -> Answer:
        if number % 5:
            return None
        self.made += 1
        return TROUBLES[self.made % len(TROUBLES)]


class Arrived:
    """The records that a remote has, counted as they come."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._seen = 0
        self.ids: Counter[tuple[Signal, int]] = Counter()

    def holds(self, wanted: set[tuple[Signal, int]]) -> bool:
        for signal, payload in self._remote.payloads[self._seen :]:
            self._seen += 1
            self.ids.update((signal, number) for number in ids_of(signal, decode(signal, payload)))
        return wanted <= self.ids.keys()


class Sender:
    """Sends one signal until it is told to stop, and keeps what was acknowledged."""

    def __init__(self, signal: Signal) -> None:
        self.signal = signal
        self.port = 0
        self.acknowledged: set[tuple[Signal, int]] = set()
        self._numbers = itertools.count(1)
        self._stopped = False

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while not self._stopped:
                ids = list(itertools.islice(self._numbers, 10))
                try:
                    async with session.post(
                        f"http://localhost:{self.port}/v1/{self.signal.value}",
                        data=request(self.signal, ids),
                        headers={"Content-Type": "application/x-protobuf"},
                    ) as reply:
                        if reply.status == 200:
                            self.acknowledged.update((self.signal, number) for number in ids)
                except (aiohttp.ClientError, TimeoutError):
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stopped = True


async def go_through(server: Server, directory: Path, *, down_s: float, kills: int, between_s: float) -> None:
    forwarding = {**SETTINGS, "endpoint_url": server.url, "protocol": server.transport}
    arguments = [f"--set=forwarding.{path}={value}" for path, value in _flat(forwarding).items()]
    senders = [Sender(signal) for signal in Signal]
    sending: list[asyncio.Task[None]] = []
    rng = random.Random(7)
    server.remote.decide = troubles = Troubles()
    await server.down()
    served = await asyncio.to_thread(Served(directory, *arguments).__enter__)
    try:
        for sender in senders:
            sender.port = served.http_port
            sending.append(asyncio.create_task(sender.run()))
        for kill in range(kills):
            # The first one in the outage, when the cursor has been stored a few times and must stand still.
            await asyncio.sleep(down_s if kill == 0 else between_s * rng.uniform(0.5, 1.5))
            served.process.kill()
            await asyncio.to_thread(served.close)
            served = await asyncio.to_thread(Served(directory, *arguments).__enter__)
            for sender in senders:
                sender.port = served.http_port
            if kill == 0:
                await server.up()
        await asyncio.sleep(between_s)
        for sender in senders:
            sender.stop()
        await asyncio.gather(*sending)
        acknowledged = set[tuple[Signal, int]]().union(*(sender.acknowledged for sender in senders))
        assert all(len(sender.acknowledged) > 100 for sender in senders)
        arrived = Arrived(server.remote)
        await server.remote.wait_for(lambda remote: arrived.holds(acknowledged), timeout_s=60)
        assert troubles.made >= len(TROUBLES), "each was met"
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
        await go_through(server, tmp_path, down_s=2.2, kills=2, between_s=0.8)


@pytest.mark.soak
@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.transport)
async def test_the_same_with_a_remote_that_is_down_for_the_first_minute(kind: type[Server], tmp_path: Path):
    async with kind() as server:
        await go_through(server, tmp_path, down_s=60, kills=10, between_s=3)
