"""Shared by all tests. ``tests/`` itself is on the import path: ``samples`` and ``strategies`` are modules."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from otlp_arrow.app import logging
from samples import Sample, samples

# Machines that share two cores make single examples slow; the time of one is no finding.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2_000)
# The same examples in every run: what fails there was changed there.
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))


@pytest.fixture(params=samples(), ids=lambda sample: sample.name)
def sample(request: pytest.FixtureRequest) -> Sample:
    """Each recorded request in turn."""
    found: Sample = request.param
    return found


@pytest.fixture(autouse=True)
def lines_go_to_logging() -> None:
    """As in a program of somebody else. Without it ``capture_logs`` leaves structlog behind as if that program had
    configured it, and what comes after is printed instead."""
    logging.leave_to_host()
