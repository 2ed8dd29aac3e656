"""What every OTLP door promises, whichever dialect it speaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from doors import (
    DIALECTS,
    REJECTED_FIELD,
    REQUEST,
    RESPONSE,
    HttpSender,
    MemoryIntake,
    OpenDoor,
    open_door,
    request_message,
    span_request,
    until,
)
from otlp_arrow.model import Batch, Busy, Closed, Receipt, Rejected, Signal, TooLarge
from otlp_arrow.receivers import Authenticator
from samples import Sample, samples

SPAN = span_request("one")


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
async def door(dialect: str) -> AsyncIterator[OpenDoor]:
    async with open_door(dialect) as opened:
        yield opened


# -- what is accepted ----------------------------------------------------------------------------------
async def test_every_recorded_request_reaches_the_intake_unchanged(door: OpenDoor) -> None:
    for sample in samples():
        answer = await door.sender.send(sample.signal, sample.payload)
        assert answer.ok, (sample.name, answer.message)
        batch = door.intake.batches[-1]
        assert batch.signal is sample.signal
        assert (batch.receiver, batch.transport) == ("otlp", "grpc" if "Grpc" in type(door.server).__name__ else "http")
        assert request_message(sample.signal, batch.payload) == request_message(sample.signal, sample.payload)
    assert door.meter.outcomes == {"ok": len(samples())}


@pytest.mark.parametrize("signal", Signal)
async def test_a_full_success_leaves_partial_success_unset(door: OpenDoor, signal: Signal) -> None:
    answer = await door.sender.send(signal, next(s.payload for s in samples() if s.signal is signal))
    assert answer.response == RESPONSE[signal]()
    assert not answer.response.HasField("partial_success")  # type: ignore[union-attr]
    assert answer.body in (b"", b"{}")


@pytest.mark.parametrize("signal", Signal)
async def test_a_request_without_telemetry_is_fine(door: OpenDoor, signal: Signal) -> None:
    envelope = REQUEST[signal]()
    getattr(envelope, f"resource_{'spans' if signal is Signal.TRACES else signal.value}").add()
    for payload in (b"", envelope.SerializeToString()):
        assert (await door.sender.send(signal, payload)).ok


async def test_gzip_is_taken(door: OpenDoor) -> None:
    payload = span_request(*(f"span {i}" for i in range(2000)))
    assert (await door.sender.send(Signal.TRACES, payload, gzip=True)).ok
    assert door.intake.batches[0].payload == payload


async def test_a_hundred_requests_at_once_on_one_connection_pool_are_all_answered(door: OpenDoor) -> None:
    answers = await asyncio.gather(*(door.sender.send(Signal.TRACES, span_request(f"{i}")) for i in range(100)))
    assert all(answer.ok for answer in answers)
    assert len({batch.payload for batch in door.intake.batches}) == 100


async def test_a_request_of_several_megabytes_is_taken(door: OpenDoor) -> None:
    payload = span_request(*("x" * 1000 for _ in range(6000)))
    assert (await door.sender.send(Signal.TRACES, payload, timeout=30)).ok
    assert door.intake.batches[0].payload == payload


# -- what is reported ----------------------------------------------------------------------------------
@pytest.mark.parametrize("signal", Signal)
async def test_refused_records_are_counted_and_explained_in_the_answer(door: OpenDoor, signal: Signal) -> None:
    door.intake.receipt = Receipt(rows=4, rejected=3, message="spans[2]: trace_id has 3 bytes")
    answer = await door.sender.send(signal, b"")
    assert answer.ok
    partial = answer.response.partial_success  # type: ignore[union-attr]
    assert getattr(partial, REJECTED_FIELD[signal]) == 3
    assert partial.error_message == "spans[2]: trace_id has 3 bytes"
    assert door.meter.outcomes == {"partial": 1}


async def test_one_bad_record_does_not_take_the_good_ones_with_it(door: OpenDoor) -> None:
    answer = await door.sender.send(Signal.TRACES, span_request("good", "bad", trace_ids=[b"\1" * 16, b"\0" * 16]))
    assert answer.response.partial_success.rejected_spans == 1  # type: ignore[union-attr]
    assert "trace_id" in answer.response.partial_success.error_message  # type: ignore[union-attr]


async def test_a_warning_without_refused_records_counts_as_success(door: OpenDoor) -> None:
    door.intake.receipt = Receipt(rows=4, message="something looks odd")
    answer = await door.sender.send(Signal.LOGS, b"")
    assert answer.response.partial_success.rejected_log_records == 0  # type: ignore[union-attr]
    assert answer.response.partial_success.error_message == "something looks odd"  # type: ignore[union-attr]
    assert door.meter.outcomes == {"ok": 1}


async def test_a_long_report_is_cut_below_the_limit_of_replies(door: OpenDoor) -> None:
    door.intake.receipt = Receipt(rows=0, rejected=9, message="ä" * 5_000_000)
    answer = await door.sender.send(Signal.LOGS, b"")
    assert 0 < len(answer.response.partial_success.error_message) <= 2000  # type: ignore[union-attr]


# -- what is refused -----------------------------------------------------------------------------------
async def test_malformed_data_is_refused_for_good_with_the_reason(door: OpenDoor) -> None:
    door.intake.error = Rejected("field 3 ends early")
    answer = await door.sender.send(Signal.TRACES, SPAN)
    assert (answer.code, answer.message, answer.retry_after_s) == ("INVALID_ARGUMENT", "field 3 ends early", None)
    assert door.meter.outcomes == {"rejected": 1}


async def test_a_reason_that_no_trailer_could_carry_is_shortened_not_replaced(door: OpenDoor) -> None:
    door.intake.error = Rejected("grüße " * 5000)
    answer = await door.sender.send(Signal.TRACES, SPAN)
    assert answer.code == "INVALID_ARGUMENT"
    assert answer.message.startswith("grüße grüße ")


async def test_a_request_over_the_limit_is_refused_for_good(dialect: str) -> None:
    async with open_door(dialect, max_request_bytes=10_000) as door:
        answer = await door.sender.send(Signal.TRACES, span_request("x" * 20_000))
        assert (answer.code, answer.retry_after_s) == ("RESOURCE_EXHAUSTED", None)
        assert (await door.sender.send(Signal.TRACES, span_request("x" * 5_000))).ok
        await until(lambda: door.meter.outcomes == {"rejected": 1, "ok": 1})


async def test_the_limit_holds_after_decompression(dialect: str) -> None:
    async with open_door(dialect, max_request_bytes=100_000) as door:
        answer = await door.sender.send(Signal.TRACES, span_request("x" * 200_000), gzip=True)
        assert (answer.code, answer.retry_after_s) == ("RESOURCE_EXHAUSTED", None)
        assert not door.intake.batches


@pytest.mark.parametrize("error", [Busy("the disk is full", 2.0), Closed("the collector is stopping", 2.0)])
async def test_a_full_collector_asks_to_come_back_soon(door: OpenDoor, error: Busy) -> None:
    door.intake.error = error
    answer = await door.sender.send(Signal.TRACES, SPAN)
    assert (answer.code, answer.message, answer.retry_after_s) == ("UNAVAILABLE", str(error), 2.0)
    door.intake.error = None
    assert (await door.sender.send(Signal.TRACES, SPAN)).ok
    assert door.meter.outcomes == {"busy": 1, "ok": 1}


async def test_while_there_is_no_room_requests_are_refused_and_then_taken_again(door: OpenDoor) -> None:
    door.intake.max_bytes = 0
    for _ in range(3):
        assert (await door.sender.send(Signal.TRACES, SPAN)).code == "UNAVAILABLE"
    assert door.intake.batches == []
    door.intake.max_bytes = 1 << 20
    assert (await door.sender.send(Signal.TRACES, SPAN)).ok


async def test_a_mistake_of_ours_is_said_plainly_and_without_details(door: OpenDoor) -> None:
    door.intake.error = ZeroDivisionError("secret internals")
    answer = await door.sender.send(Signal.TRACES, SPAN)
    assert answer.code == "INTERNAL"
    assert "secret" not in answer.message
    assert "log" in answer.message
    assert door.meter.outcomes == {"failed": 1}


async def test_a_refusal_by_size_of_the_decoder_is_not_retryable(door: OpenDoor) -> None:
    door.intake.error = TooLarge("too large to repeat")
    answer = await door.sender.send(Signal.TRACES, SPAN)
    assert (answer.code, answer.retry_after_s) == ("RESOURCE_EXHAUSTED", None)


async def test_four_hundred_damaged_requests_are_each_taken_or_refused_and_the_door_lives(door: OpenDoor) -> None:
    mix = random.Random(7)
    verdicts = set()
    for number in range(400):
        sample: Sample = mix.choice(samples())
        damaged = _damage(mix, sample.payload)
        if isinstance(door.sender, HttpSender) and door.sender.media == "json":
            text = sample.json or b'{"resourceSpans":[]}'
            answer = await door.sender.post(sample.signal, _damage(mix, text))
        else:
            answer = await _send_raw(door, sample.signal, damaged)
        assert answer in ("OK", "INVALID_ARGUMENT") or getattr(answer, "code", "") in ("OK", "INVALID_ARGUMENT"), number
        verdicts.add(getattr(answer, "code", answer))
    assert verdicts == {"OK", "INVALID_ARGUMENT"}
    assert (await door.sender.send(Signal.TRACES, SPAN)).ok


async def _send_raw(door: OpenDoor, signal: Signal, payload: bytes) -> object:
    return await door.sender.send(signal, payload)


def _damage(mix: random.Random, payload: bytes) -> bytes:
    damaged = bytearray(payload)
    for _ in range(mix.randint(1, 4)):
        at = mix.randrange(len(damaged))
        match mix.randrange(4):
            case 0:
                damaged[at] ^= 1 << mix.randrange(8)
            case 1:
                del damaged[at : at + mix.randint(1, 20)]
            case 2:
                damaged[at:at] = mix.randbytes(mix.randint(1, 8))
            case 3:
                del damaged[max(at, 1) :]
        if not damaged:
            break
    return bytes(damaged)


# -- who is let in -------------------------------------------------------------------------------------
AUTH = Authenticator(bearer_tokens=["t0ken"], basic={"ann": "pässword"}, api_keys=["k3y"])


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer t0ken"},
        {"authorization": "bearer  t0ken "},
        {"authorization": "Basic YW5uOnDDpHNzd29yZA=="},
        {"x-api-key": "k3y"},
        {"authorization": "Bearer wrong", "x-api-key": "k3y"},
    ],
)
async def test_any_one_valid_credential_opens_the_door(dialect: str, headers: dict[str, str]) -> None:
    async with open_door(dialect, auth=AUTH) as door:
        assert (await door.sender.send(Signal.TRACES, SPAN, headers)).ok


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "t0ken"},
        {"authorization": "Basic !!!"},
        {"x-api-key": ""},
    ],
)
async def test_without_a_valid_credential_nothing_is_read(dialect: str, headers: dict[str, str]) -> None:
    async with open_door(dialect, auth=AUTH) as door:
        answer = await door.sender.send(Signal.TRACES, SPAN, headers)
        assert answer.code == "UNAUTHENTICATED"
        assert "Bearer" in answer.message
        assert "t0ken" not in answer.message
        assert answer.retry_after_s is None
        assert door.intake.asked_bytes == []
        assert door.meter.outcomes == {"unauthenticated": 1}


# -- beginning and ending ------------------------------------------------------------------------------
async def test_a_client_that_goes_away_leaves_nothing_behind(door: OpenDoor) -> None:
    door.intake.gate.clear()
    sending = asyncio.create_task(door.sender.send(Signal.TRACES, SPAN))
    await until(lambda: door.intake.waiting == 1)
    sending.cancel()
    await until(lambda: door.intake.waiting == 0)
    assert door.intake.held_bytes == 0
    await until(lambda: door.meter.outcomes == {"cancelled": 1})
    door.intake.gate.set()
    assert (await door.sender.send(Signal.TRACES, SPAN)).ok


async def test_closing_waits_for_the_requests_in_flight(dialect: str) -> None:
    intake = MemoryIntake()
    intake.gate.clear()
    async with open_door(dialect, intake=intake) as door:
        sending = asyncio.create_task(door.sender.send(Signal.TRACES, SPAN))
        await until(lambda: intake.waiting == 1)
        asyncio.get_running_loop().call_later(0.05, intake.gate.set)
        await door.server.__aexit__(None, None, None)
        assert (await sending).ok
        assert len(intake.batches) == 1


class SlowToEnd(MemoryIntake):
    """Needs a while to put things in order when it is cancelled."""

    ended = False

    async def accept(self, batch: Batch, ticket: Any = None) -> Receipt:
        try:
            return await super().accept(batch, ticket)
        except asyncio.CancelledError:
            tidying = asyncio.create_task(asyncio.sleep(0.1))
            while not tidying.done():
                with contextlib.suppress(asyncio.CancelledError):  # the HTTP door's library cancels twice
                    await asyncio.shield(tidying)
            self.ended = True
            raise


async def test_closing_waits_its_grace_and_then_until_the_cancelled_requests_have_ended(dialect: str) -> None:
    intake = SlowToEnd()
    intake.gate.clear()
    async with open_door(dialect, intake=intake, grace_s=0.05) as door:
        sending = asyncio.create_task(door.sender.send(Signal.TRACES, SPAN))
        await until(lambda: intake.waiting == 1)
        await door.server.__aexit__(None, None, None)
        assert intake.ended
        results = await asyncio.gather(sending, return_exceptions=True)
        assert not getattr(results[0], "ok", False)
        assert door.meter.outcomes == {"cancelled": 1}
