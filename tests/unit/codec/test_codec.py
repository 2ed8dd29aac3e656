"""The package's own names: they run on the kernel or say why not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from otlp_arrow import codec
from otlp_arrow.codec import reference
from otlp_arrow.model import Rejected, Signal
from samples import Sample
from strategies import REQUESTS, normal, rows


def test_either_the_kernel_is_available_or_the_reason_is_known() -> None:
    assert codec.kernel_available() == (codec.KERNEL_ERROR == "")


def test_decoding_gives_what_the_reference_gives(sample: Sample) -> None:
    batch, outcome = codec.decode_with_outcome(sample.signal, sample.payload)
    expected, expected_outcome = reference.decode_with_outcome(sample.signal, sample.payload)
    assert outcome == expected_outcome
    assert rows(batch) == rows(expected) == rows(codec.decode(sample.signal, sample.payload))


def test_encoding_gives_an_equal_request(sample: Sample) -> None:
    request = REQUESTS[sample.signal].FromString
    batch = codec.decode(sample.signal, sample.payload)
    assert normal(request(codec.encode(sample.signal, batch))) == normal(request(sample.payload))


@pytest.mark.parametrize("signal", Signal)
def test_a_payload_in_error_is_rejected(signal: Signal) -> None:
    with pytest.raises(Rejected, match="malformed protobuf"):
        codec.decode(signal, b"\xff")
    with pytest.raises(Rejected, match="the body: not JSON"):
        codec.decode_json(signal, "{")


def test_the_environment_can_ask_for_the_reference() -> None:
    program = (
        "from otlp_arrow import codec; from otlp_arrow.model import Signal;"
        "print(codec.kernel_available(), codec.KERNEL_ERROR, type(codec.new_builder(Signal.LOGS)).__name__);"
        "print(codec.decode(Signal.LOGS, b'').num_rows, codec.encode(Signal.LOGS, codec.decode(Signal.LOGS, b'')))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OTLP_KERNEL": "reference"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    available, *error, builder = found.stdout.splitlines()[0].split(" ")
    assert (available, builder) == ("False", "ReferenceBuilder")
    assert "kernel" in " ".join(error).lower()
    assert found.stdout.splitlines()[1] == "0 b''"
