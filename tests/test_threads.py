"""Choice of threads: the environment, limits, forks, and the configuration that tells of it."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastcnn
from fastcnn import functional as F
from fastcnn.kernels import isa
from fastcnn.kernels import threads as kernel

X = np.random.default_rng(0).standard_normal((8, 16, 40, 40)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((16, 16, 3, 3)).astype(np.float32)
openmp = pytest.mark.skipif(not kernel.openmp_version(), reason="this build has no OpenMP: one thread always")


def run(code, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


COUNT = "import fastcnn; print(fastcnn.get_num_threads())"


@openmp
@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"FASTCNN_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"FASTCNN_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
    ],
)
def test_environment(environment, count):
    assert run(COUNT, **environment).stdout.split() == [str(count)]


WITHIN_TASKS = """
import hashlib
import numpy as np
from fastcnn import functional as F
x = np.random.default_rng(0).standard_normal((64, 32, 32, 32), np.float32).transpose(0, 3, 1, 2)
weight = np.random.default_rng(1).standard_normal((32, 1, 3, 3), np.float32)
one = np.ones(32, np.float32)
y = F.norm_conv2d(x, one, one, one, weight, padding=1, groups=32, relu=True)
results = y, *F.norm_conv2d_backward(y, x, one, one, one, weight, padding=1, groups=32, relu=True)
results += F.conv2d_max_pool(x[:, :1], weight[:6], padding=1, pool=(2,), relu=True)
print(hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest())
"""


@openmp
def test_a_region_that_gets_one_thread_only():
    """Of kernels whose tasks call kernels: loops of OpenMP, one within the other, without a team for each."""
    results = [run(WITHIN_TASKS, FASTCNN_NUM_THREADS="2", **limit) for limit in ({}, {"OMP_THREAD_LIMIT": "1"})]
    assert results[0].stdout == results[1].stdout != "", results[1].stderr


@openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_affinity():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + COUNT
    assert run(code).stdout.split() == ["1"]


@pytest.mark.parametrize("value", ["0", "-2", "two"])
def test_wrong_environment(value):
    done = run(COUNT, FASTCNN_NUM_THREADS=value)
    assert done.returncode == 1
    assert f"FASTCNN_NUM_THREADS: expected a positive integer, got {value!r}" in done.stderr


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (5000, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_wrong_number(value, error):
    before = fastcnn.get_num_threads()
    with pytest.raises(error, match="num_threads: expected"):
        fastcnn.set_num_threads(value)
    assert fastcnn.get_num_threads() == before


@openmp
def test_set_and_get(threads):
    threads(7)
    assert fastcnn.get_num_threads() == 7


def child(queue):
    fastcnn.set_num_threads(2)
    queue.put((fastcnn.get_num_threads(), F.conv2d(X, W)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_child_processes_run(method):
    """A child forked after a parallel region computes the same on one thread, and does not hang."""
    expected = F.conv2d(X, W)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    count, got = queue.get(timeout=60)
    process.join(60)
    assert process.exitcode == 0
    assert_array_equal(got, expected)
    if method == "fork":
        assert count == 1


def test_show_config(capsys):
    assert fastcnn.show_config() is None
    printed = capsys.readouterr().out
    found = fastcnn.show_config(mode="dicts")
    for name, value in found.items():
        assert f"{name} " in printed
        assert value in printed
    assert found["openmp"].startswith("yes" if kernel.openmp_version() else "no")
    with pytest.raises(ValueError, match="mode: expected 'stdout' or 'dicts', got 'json'"):
        fastcnn.show_config("json")


@pytest.mark.parametrize("path", isa.available())
def test_show_config_names_the_path_that_was_asked_for(path):
    done = run("import fastcnn; print(fastcnn.show_config('dicts')['instruction set'])", FASTCNN_ISA=path)
    assert done.stdout == f"{path}\n", done.stderr
