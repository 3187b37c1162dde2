"""Memory of results: aligned, apart while in use, used again after."""

import resource
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


def test_many_threads_share_the_lists():
    wrong = []

    def work(number):
        for size in np.random.default_rng(number).integers(2000, 50_000, 300):
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
