"""The default generator: seeds, state, and the meaning of rng=None."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastcnn import random


@pytest.fixture(autouse=True)
def _restore():
    state = random.get_state()
    yield
    random.set_state(state)


def test_same_seed_same_numbers():
    random.manual_seed(7)
    first = random.default_generator().random(5)
    random.manual_seed(7)
    assert np.array_equal(first, random.default_generator().random(5))
    random.manual_seed(8)
    assert not np.array_equal(first, random.default_generator().random(5))


def test_seed_is_pcg64():
    random.manual_seed(3)
    expected = np.random.Generator(np.random.PCG64(3)).random(4)
    assert np.array_equal(random.default_generator().random(4), expected)


def test_every_bit_of_a_seed_counts():
    drawn = {random.manual_seed(1 + 2**bits).integers(2**63) for bits in (1, 31, 32, 63, 64, 128, 200)}
    assert len(drawn) == 7


def test_manual_seed_keeps_the_generator_object():
    before = random.default_generator()
    assert random.manual_seed(1) is before
    assert random.default_generator() is before


def test_state_survives_json():
    random.manual_seed(2**70)
    random.default_generator().integers(0, 2**32, dtype=np.uint32)  # leaves half a 64-bit draw in the state
    text = json.dumps(random.get_state())
    expected = random.default_generator().integers(0, 2**32, 3, dtype=np.uint32)
    random.set_state(json.loads(text))
    assert np.array_equal(random.default_generator().integers(0, 2**32, 3, dtype=np.uint32), expected)


def test_state_is_a_copy():
    state = random.get_state()
    state["state"]["state"] = 0
    assert random.get_state()["state"]["state"] != 0


def test_resolve():
    own = np.random.default_rng(0)
    assert random.resolve(own) is own
    assert random.resolve(None) is random.default_generator()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: random.manual_seed(-1), ValueError, "seed: expected a non-negative int, got -1"),
        (lambda: random.manual_seed(1.5), TypeError, "seed: expected a non-negative int, got 1.5"),
        (lambda: random.manual_seed(True), TypeError, "seed: expected a non-negative int, got True"),
        (lambda: random.resolve(3), TypeError, "rng: expected a numpy.random.Generator or None, got 3"),
        (lambda: random.set_state(None), TypeError, "state: expected a dict from get_state, got None"),
        (lambda: random.set_state({}), ValueError, "state: expected the state of a PCG64 generator, got {}"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("field", ["state", "inc"])
@pytest.mark.parametrize("value", [None, "1", -1, 2**128, 1.5])
def test_a_bad_state_changes_nothing(field, value):
    before = random.get_state()
    bad = random.get_state()
    bad["state"][field] = value
    with pytest.raises(ValueError, match=r"^state: expected the state of a PCG64 generator"):
        random.set_state(bad)
    assert random.get_state() == before
