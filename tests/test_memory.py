"""Memory of results: aligned, apart while in use, used again after."""

import os
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastcnn
from fastcnn import functional as F
from fastcnn.functional._memory import allocate
from fastcnn.kernels import memory


def test_arrays_are_aligned_whole_and_apart():
    arrays = [allocate((count, 3), dtype) for count in (0, 1, 400, 5000, 100_000, 600_000) for dtype in "fdB"]
    for number, array in enumerate(arrays):
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array[...] = number
        if array.nbytes >= 4096:
            assert array.ctypes.data % 64 == 0
    for number, array in enumerate(arrays):
        assert (array == number).all()


@pytest.mark.parametrize("size", [64, 65, 127, 128, 4095, 5000, 2**20 - 1, 2**20, 2**20 + 1, 2**22 + 77])
def test_a_dead_array_serves_the_next(size):
    fastcnn.empty_cache()
    block = memory.Block(size)
    address = np.frombuffer(block, np.uint8).ctypes.data
    assert memory.cached_bytes() == 0
    del block
    assert size <= memory.cached_bytes() <= max(size * 9 / 8, 64)
    block = memory.Block(size)
    assert np.frombuffer(block, np.uint8).ctypes.data == address
    assert memory.cached_bytes() == 0
    del block
    fastcnn.empty_cache()
    assert memory.cached_bytes() == 0


def test_a_view_keeps_its_memory():
    whole = allocate((1000, 10), np.float32)
    whole[...] = 7
    part = whole[10:20]
    del whole
    other = allocate((1000, 10), np.float32)
    other[...] = 8
    assert (part == 7).all()


def test_a_steady_step_touches_no_fresh_pages():
    x = np.zeros((16, 32, 32, 16), np.float32).transpose(0, 3, 1, 2)
    weight = np.zeros((16, 16, 3, 3), np.float32)

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            F.relu(F.conv2d(x, weight, padding=1))
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert min(faults() for _ in range(5)) < 256  # one array alone has 256 pages


def test_neighbours_that_are_free_serve_a_larger_array():
    fastcnn.empty_cache()
    sizes = [2**20, 3 * 2**20, 2**20 + 64, 2**19]
    blocks = [memory.Block(size) for size in sizes]
    addresses = [np.frombuffer(block, np.uint8).ctypes.data for block in blocks]
    assert addresses == sorted(addresses)
    last = memory.Block(2**20)
    for number in (1, 3, 0, 2):
        blocks[number] = None
    whole = memory.Block(sum(sizes))
    assert np.frombuffer(whole, np.uint8).ctypes.data == addresses[0]
    assert memory.cached_bytes() < 1024
    del whole, last


@pytest.mark.parametrize("seed", range(5))
def test_large_and_small_blocks_in_any_order(seed):
    fastcnn.empty_cache()
    rng, alive = np.random.default_rng(seed), {}
    memory.restart_peak()
    before, most, total = memory.used_bytes()[0], 0, 0
    for number in range(400):
        if alive and rng.random() < 0.5:
            key = int(rng.choice(list(alive)))
            array = alive.pop(key)
            assert (array == key % 251).all()
            total -= array.nbytes
            continue
        size = int(rng.integers(1, 1 << int(rng.integers(10, 23))))
        array = np.ndarray((size,), np.uint8, memory.Block(size))
        array[...] = number % 251
        alive[number] = array
        total += size
        most = max(most, total)
    for key, array in alive.items():
        assert (array == key % 251).all()
        assert array.ctypes.data % 64 == 0
    del array
    used, peak = memory.used_bytes()
    assert total <= used - before
    assert most <= peak - before <= most * 1.125 + 50 * 2**17
    alive.clear()
    assert memory.used_bytes()[0] == before
    fastcnn.empty_cache()
    assert memory.cached_bytes() == 0


def test_a_gradient_takes_the_place_of_dead_activations():
    """Arrays of three sizes, dropped in the opposite order while larger ones are made, as in a step."""
    fastcnn.empty_cache()
    sizes = [8 << 20] * 4 + [4 << 20] * 4 + [2 << 20] * 4
    for _ in range(2):
        saved = [memory.Block(size) for size in sizes]
        while saved:
            size = memoryview(saved.pop()).nbytes
            grads = [memory.Block(size), memory.Block(size)]
            del grads
    assert memory.cached_bytes() <= sum(sizes) + (8 << 20)


def test_many_threads_share_the_lists():
    wrong = []

    def work(number):
        for size in np.random.default_rng(number).integers(2000, 100_000, 300):
            array = allocate((size,), np.float32)
            array[...] = number
            other = allocate((size,), np.float32)
            other[...] = -1
            if (array != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_no_memory_is_an_error():
    with pytest.raises(MemoryError, match="no memory for an array of 4611686018427387904 bytes"):
        memory.Block(2**62)


# What FASTCNN_ALLOCATOR says, once the process has imported fastcnn with it.
ASKED = """
import numpy as np, fastcnn
from fastcnn import functional as F
from fastcnn.functional._memory import allocate
from fastcnn.kernels import memory
x, weight = np.ones((2, 16, 20, 20), np.float32), np.ones((16, 16, 3, 3), np.float32)
used = memory.used_bytes()[0]
results = [F.conv2d(x, weight, padding=1), *F.conv2d_backward(x, x, weight, padding=1)]
assert (results[0][:, :, 1:-1, 1:-1] == 144).all()
own = sum(array.nbytes for array in results)
small = allocate((3,), np.float64)
print(fastcnn.show_config("dicts")["allocator"], memory.used_bytes()[0] - used - own, small.ctypes.data % 64,
      bool(np.isnan(small).all()))
del results, small
print(memory.used_bytes()[0] - used, memory.cached_bytes())
"""


def asked(value):
    environment = {**os.environ, "FASTCNN_ALLOCATOR": value}
    return subprocess.run([sys.executable, "-c", ASKED], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("value", ["malloc", "malloc-nan"])
def test_blocks_of_their_own(value):
    """As large as asked for, small ones too; on a cache line; filled where asked for; freed once given back."""
    done = asked(value)
    name, size, misaligned, filled, kept, cached = done.stdout.split()
    assert (name, size, misaligned, kept, cached) == (value, "24", "0", "0", "0"), done.stderr
    assert filled == "True" or value == "malloc"


def test_arenas_unless_asked():
    assert asked("").stdout.startswith("arena ")


def test_an_unknown_allocator_is_an_error():
    done = asked("jemalloc")
    assert done.returncode == 1
    assert "FASTCNN_ALLOCATOR: expected one of arena, malloc, malloc-nan, got 'jemalloc'" in done.stderr
