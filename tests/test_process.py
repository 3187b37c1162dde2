"""Living in another process: other OpenMP runtimes, limits, forks, floating-point state, what an import loads."""

import ctypes
import ctypes.util
import mmap
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastcnn
from fastcnn import functional as F
from fastcnn.kernels import threads as kernel

X = np.random.default_rng(0).standard_normal((8, 16, 40, 40)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((16, 16, 3, 3)).astype(np.float32)
openmp = pytest.mark.skipif(not kernel.openmp_version(), reason="this build has no OpenMP: one thread always")
linux = pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")


def run(code, *options, **environment):
    """Run code in a process of its own, with X and W there, and return what it printed; a hang is an error."""
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    start = """
        import os, sys
        import numpy as np
        import fastcnn
        from fastcnn import functional as F
        X = np.random.default_rng(0).standard_normal((8, 16, 40, 40)).astype(np.float32)
        W = np.random.default_rng(1).standard_normal((16, 16, 3, 3)).astype(np.float32)
        def tasks(): return len(os.listdir("/proc/self/task"))
    """
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(start) + textwrap.dedent(code)],
        env={**clean, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def everything():
    """Call a kernel of each kind on data that is worth several threads, and return the results."""
    rng = np.random.default_rng(5)
    size = (4, 24, 24, 24)
    y = F.conv2d(rng.standard_normal(size, np.float32), rng.standard_normal((24, 24, 3, 3), np.float32), padding=1)
    pooled, taps = F.max_pool2d_taps(y, 3, 2, 1)
    dx = F.max_pool2d_taps_backward(pooled, taps, y.shape, 3, 2, 1)
    mean, var = np.zeros(24, np.float32), np.ones(24, np.float32)
    normal, *saved = F.batch_norm(y, mean, var, training=True, return_saved=True)
    w = rng.standard_normal((24, 24, 3, 3), np.float32)
    linear = F.linear(y.reshape(4, -1), rng.standard_normal((64, y[0].size), np.float32))
    loss, grad = F.cross_entropy(linear, np.arange(4))
    return [
        y, pooled, dx, normal, *F.conv2d_backward(dx, y, w, padding=1), *F.batch_norm_backward(dx, y, None, *saved),
        F.avg_pool2d(y, 3, 2), F.relu(y), F.gelu(y), F.im2col(y, 3), linear, grad, np.float64(loss),
    ]  # fmt: skip


# --- OpenMP: other runtimes, limits ----------------------------------------------------------------------------------

# A second copy of the runtime's library in the process has threads and settings of its own, as the one that another
# package brings. `region(call, n)` runs call(thread number) on n threads of it.
SECOND = """
    import ctypes
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    second = ctypes.CDLL(sys.argv[1])
    def region(call, n):
        second.GOMP_parallel(entry(lambda _: call(second.omp_get_thread_num())), None, n, 0)
"""


@pytest.fixture(scope="module")
def second_runtime(tmp_path_factory):
    with open("/proc/self/maps") as maps:
        loaded = {line.split()[-1] for line in maps if "libgomp" in line}
    if not loaded:
        pytest.skip("the kernels' OpenMP runtime is not GCC's")
    return shutil.copy(min(loaded), tmp_path_factory.mktemp("second") / "libgomp-second.so")


def run_with_second(library, code, **environment):
    path = repr(str(library))
    return run(f"sys.argv[1:] = [{path}]" + textwrap.dedent(SECOND) + textwrap.dedent(code), **environment)


@openmp
@linux
def test_two_runtimes_take_turns(second_runtime):
    """Neither hangs, results are right, and each has the threads that it was told to have, whoever goes first."""
    code = """
        seen = set()
        region(lambda i: None, 2)               # the other's region comes first
        expected = F.conv2d(X, W)
        before = tasks()
        for _ in range(200):
            region(seen.add, 2)
            assert np.array_equal(F.conv2d(X, W), expected)
        print(len(seen), tasks() == before == 3)  # this thread, one more of each runtime
    """
    out, _ = run_with_second(second_runtime, code, FASTCNN_NUM_THREADS="2")
    assert out.split() == ["2", "True"]


@openmp
@linux
def test_calls_from_another_runtimes_region(second_runtime):
    """Threads of another runtime call kernels at once, and bring the teams that set_num_threads allows, no more."""
    code = """
        expected = F.conv2d(X, W)
        same, counts = [], []
        def call(i):
            for _ in range(20):
                same.append(np.array_equal(F.conv2d(X, W), expected))
            counts.append(tasks())
        fastcnn.set_num_threads(1)
        region(call, 3)
        print(len(same), all(same), max(counts) <= 4)   # 3 callers, and the thread that the first call had started
        fastcnn.set_num_threads(2)
        region(call, 3)
        print(len(same), all(same), max(counts) <= 6)   # two threads for each caller
    """
    out, _ = run_with_second(second_runtime, code, FASTCNN_NUM_THREADS="2")
    assert out.split("\n")[:2] == ["60 True True", "120 True True"]


@openmp
def test_threadpoolctl_sees_and_limits():
    control = pytest.importorskip("threadpoolctl")
    before = fastcnn.get_num_threads()
    fastcnn.set_num_threads(4)
    try:
        found = [pool for pool in control.threadpool_info() if pool["user_api"] == "openmp"]
        assert found
        with control.threadpool_limits(1, user_api="openmp"):
            assert fastcnn.get_num_threads() == 1
            fastcnn.set_num_threads(5)
            assert fastcnn.get_num_threads() == 1
        assert fastcnn.get_num_threads() == 5
    finally:
        fastcnn.set_num_threads(before)


@openmp
@linux
def test_a_limit_keeps_threads_from_starting():
    pytest.importorskip("threadpoolctl")
    code = """
        from threadpoolctl import threadpool_limits
        before = tasks()
        with threadpool_limits(1):
            limited = F.conv2d(X, W)
            started = tasks() - before
        print(started, np.array_equal(F.conv2d(X, W), limited), tasks() - before)
    """
    assert run(code, FASTCNN_NUM_THREADS="2")[0].split() == ["0", "True", "1"]


@openmp
def test_a_limit_that_holds_while_fastcnn_is_imported():
    pytest.importorskip("threadpoolctl")
    code = """
        import ctypes, threadpoolctl
        ctypes.CDLL("libgomp.so.1" if sys.platform == "linux" else None)
        with threadpoolctl.threadpool_limits(1):
            import fastcnn
            print(fastcnn.get_num_threads())
        print(fastcnn.get_num_threads())
    """
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + textwrap.dedent(code)], capture_output=True, text=True, check=True,
        env={**os.environ, "FASTCNN_NUM_THREADS": "3"},
    )  # fmt: skip
    assert done.stdout.split() in (["1", "3"], ["3", "3"]), "the second where the kernels have a runtime of their own"


@openmp
def test_the_number_of_threads_is_the_processes(threads):
    """set_num_threads from one thread counts for all, those that are running included."""
    threads(3)
    seen = []
    asked, answer = threading.Event(), threading.Event()

    def other():
        seen.append(fastcnn.get_num_threads())
        asked.set()
        answer.wait(30)
        seen.append(fastcnn.get_num_threads())
        fastcnn.set_num_threads(4)

    thread = threading.Thread(target=other)
    thread.start()
    assert asked.wait(30)
    fastcnn.set_num_threads(2)
    answer.set()
    thread.join()
    assert seen == [3, 2]
    assert fastcnn.get_num_threads() == 4


def test_concurrent_calls_agree():
    """Several Python threads at once get the bits that one gets, while another changes the number of threads."""
    expected = everything()
    done = threading.Event()

    def flicker():
        while not done.is_set():
            for count in (1, 3, 2):
                fastcnn.set_num_threads(count)

    before = fastcnn.get_num_threads()
    flickering = threading.Thread(target=flicker)
    flickering.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            for results in pool.map(lambda _: everything(), range(8)):
                for got, wanted in zip(results, expected, strict=True):
                    assert_array_equal(got, wanted)
    finally:
        done.set()
        flickering.join()
        fastcnn.set_num_threads(before)


# --- children --------------------------------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
FORK = """
    expected = F.conv2d(X, W)
    sys.stdout.flush()
    if os.fork() == 0:
        print(fastcnn.get_num_threads(), all(np.array_equal(F.conv2d(X, W), expected) for _ in range(3)))
        fastcnn.set_num_threads(4)
        print(fastcnn.get_num_threads(), np.array_equal(F.max_pool2d(X, 2), F.max_pool2d(X.copy(), 2)))
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0
    print(np.array_equal(F.conv2d(X, W), expected))
"""


@openmp
@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_is_serial_and_says_so_once():
    out, errors = run(FORK, FASTCNN_NUM_THREADS="2")
    assert out.split() == ["1", "True", "1", "True", "True"]
    assert errors.count("RuntimeWarning: this process was forked") == 1


@openmp
@needs_fork
def test_forked_child_where_warnings_are_errors():
    """The warning is printed as an exception that nobody can catch: it breaks no call."""
    out, errors = run(FORK, "-W", "error::RuntimeWarning", FASTCNN_NUM_THREADS="2")
    assert out.split() == ["1", "True", "1", "True", "True"]
    assert errors.count("Exception ignored") == 1


@openmp
@needs_fork
@pytest.mark.parametrize("quiet", ["FASTCNN_NUM_THREADS=1", "no kernel in the child"])
def test_forks_that_lose_nothing_are_silent(quiet):
    code = FORK if quiet.endswith("1") else "F.conv2d(X, W)\nif os.fork() == 0: os._exit(0)\nos.wait()"
    _, errors = run(code, FASTCNN_NUM_THREADS="1" if quiet.endswith("1") else "2")
    assert "RuntimeWarning" not in errors


def child(_):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = everything()
        for _ in range(100):  # a pending warning comes before this loop's end
            pass
    return fastcnn.get_num_threads(), [str(warning.message) for warning in caught], results


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_start_methods(method, threads):
    """Workers of each start method compute the parent's bits, twice; only forked ones are serial, and warn once."""
    threads(2)
    expected = everything()
    with multiprocessing.get_context(method).Pool(1) as pool:
        for turn in range(2):
            count, caught, results = pool.apply_async(child, (turn,)).get(120)
            for got, wanted in zip(results, expected, strict=True):
                assert_array_equal(got, wanted)
            assert len(caught) == (method == "fork" and turn == 0 and kernel.openmp_version() > 0)
            if method == "fork":
                assert count == 1
            elif kernel.openmp_version():
                assert count == kernel.default_num_threads()


# --- floating-point state --------------------------------------------------------------------------------------------

x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux", reason="reads x86-64 registers"
)


def machine_code(code, result, *arguments):
    """A function from machine code in the System V convention."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex(code))
    function = ctypes.CFUNCTYPE(result, *arguments)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    function.page = page
    return function


@pytest.fixture(scope="module")
def control():
    """Functions that read and write MXCSR, read the x87 control word, and read which register states are in use."""
    pointer, number = ctypes.c_void_p, ctypes.c_uint64
    read = machine_code("0fae1f c3", None, pointer)  # stmxcsr [rdi]
    write = machine_code("0fae17 c3", None, pointer)  # ldmxcsr [rdi]
    x87 = machine_code("d93f c3", None, pointer)  # fnstcw [rdi]
    in_use = machine_code("b901000000 0f01d0 48c1e220 4809d0 c3", number)  # xgetbv(1)
    cell = (ctypes.c_uint32 * 1)()

    def get(function):
        cell[0] = 0
        function(ctypes.addressof(cell))
        return cell[0]

    def set_mxcsr(value):
        cell[0] = value
        write(ctypes.addressof(cell))

    return lambda: get(read), set_mxcsr, lambda: get(x87), in_use


MODES = {
    "nearest": 0x1F80,
    "denormals are zero": 0x9FC0,  # DAZ and FTZ
    "downwards": 0x3F80,
    "to zero, denormals are zero": 0xFFC0,
}


@x86
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["main thread", "another thread"])
def test_floating_point_control_is_untouched(mode, where, control, threads):
    read, write, x87, _ = control
    threads(2)

    def check():
        before, before_x87 = read(), x87()
        try:
            write(MODES[mode])
            everything()
            return read() & ~0x3F, x87(), before_x87  # without the flags, which any operation may raise
        finally:
            write(before)

    with ThreadPoolExecutor(1) as pool:
        mxcsr, after, before = check() if where == "main thread" else pool.submit(check).result()
    assert mxcsr == MODES[mode]
    assert after == before


@x86
def test_tile_state_is_untouched(control):
    """No kernel leaves matrix tiles configured or holding data: bits 17 and 18."""
    if "xgetbv1" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the CPU does not tell which register states are in use")
    in_use = control[3]
    before = in_use() & 0x60000
    everything()
    assert in_use() & 0x60000 == before


# --- import ----------------------------------------------------------------------------------------------------------


def test_import_loads_little():
    """What costs tens of milliseconds is loaded by the first use: the trainer, downloads, archives, other packages."""
    code = "print(*sorted(sys.modules))"
    loaded = set(run(code)[0].split())
    heavy = {"fastcnn.training", "fastcnn.cli", "fastcnn.torch", "tarfile", "gzip", "lzma", "bz2", "urllib.request"}
    heavy |= {"asyncio", "multiprocessing", "concurrent.futures", "unittest", "http.client", "logging", "ssl"}
    heavy |= {"torch", "tqdm", "safetensors", "pooch", "matplotlib", "scipy", "sklearn", "threadpoolctl"}
    assert not loaded & heavy
    code = """
        trainer = fastcnn.Trainer
        print("fastcnn.training" in sys.modules, *sorted(set(dir(fastcnn)) & set(fastcnn.__all__)))
    """
    first, *names = run(code)[0].split()
    assert first == "True"
    assert names == sorted(fastcnn.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fastcnn' has no attribute 'Trainr'"):
        _ = fastcnn.Trainr
