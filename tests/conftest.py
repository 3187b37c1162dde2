"""Hypothesis profiles, and the fixtures that several test files share."""

import os
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, os.path.dirname(__file__))

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
# Many more examples a test: pytest --hypothesis-profile=thorough
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2000)
# As few examples a test as make sense, for builds that are slow: pytest --hypothesis-profile=few
settings.register_profile("few", parent=settings.get_profile("default"), max_examples=10)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def threads():
    """A function that sets the number of threads until the test's end."""
    from fastcnn import get_num_threads, set_num_threads

    before = get_num_threads()
    yield set_num_threads
    set_num_threads(before)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
