"""How many threads a kernel uses: the one module that asks OpenMP anything.

Every `prange` of the library is `prange(tasks, num_threads=threads_for(tasks, work))`. The answer changes who computes
what, never what is computed: kernels split work by shape and sum in an order that no thread count alters.

The number is one for the whole process, `set_num_threads`. OpenMP's own, which is one for each thread that starts a
region, counts where somebody has lowered it: so threadpoolctl limits the kernels too.
"""

import math
import os
import threading
import warnings
from pathlib import Path


cdef extern from "openmp_shim.h" nogil:
    int FASTCNN_OPENMP
    int omp_in_parallel()
    int omp_get_thread_num()
    int omp_get_max_threads()

cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void*) noexcept, void* argument) nogil


# Below this many elementary operations (a float read or written, a multiply-add) a parallel region costs more than it
# saves: waking a second thread took 5 to 10 microseconds where it was measured, in which one core handles about this.
cdef Py_ssize_t SERIAL_WORK = 32768

cdef int _threads = 1
cdef int _openmp_default = 1    # OpenMP's number where nobody has changed it
cdef bint _forked = False
cdef bint _untold = False       # that a fork took the threads away


cdef int threads_for(Py_ssize_t tasks, Py_ssize_t work) noexcept nogil:
    """Threads for `tasks` independent pieces of `work` operations in all; 1 inside another parallel region."""
    global _untold
    if work < SERIAL_WORK or tasks < 2 or omp_in_parallel():
        return 1
    if _untold:
        _untold = False
        Py_AddPendingCall(_tell_of_fork, NULL)  # the main thread calls it, once it runs Python code
    return <int>min(<Py_ssize_t>max_threads(), tasks)


cdef int thread_index() noexcept nogil:
    """Number of the calling thread in the innermost parallel region; picks its slice of scratch."""
    return omp_get_thread_num()


cdef int max_threads() noexcept nogil:
    """The most that `threads_for` can return to the calling thread: how many slices of scratch to allocate."""
    cdef int limit = omp_get_max_threads()
    return min(_threads, limit) if limit < _openmp_default else _threads


cdef int _tell_of_fork(void* unused) noexcept:
    # Where warnings are errors, this one is printed as an exception ignored: the kernel's result is right either way.
    warnings.warn(
        "this process was forked from one that had loaded fastcnn, so the kernels run on one thread: OpenMP's threads "
        "do not survive a fork. The start methods 'spawn' and 'forkserver' of multiprocessing give children theirs",
        RuntimeWarning)
    return 0


def _positive(name, text):
    try:
        value = int(text)
    except (TypeError, ValueError):
        value = 0
    if value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {text!r}")
    return value


def _cgroup_quota(cores):
    """CPUs that the control group of the process may use, rounded up; `cores` where there is no quota."""
    try:  # version 2: "max 100000" or "150000 100000"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:  # version 1: -1 where unlimited
        folder = Path("/sys/fs/cgroup/cpu")
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return math.ceil(quota / int((folder / "cpu.cfs_period_us").read_text())) if quota > 0 else cores
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def default_num_threads():
    """FASTCNN_NUM_THREADS, else OMP_NUM_THREADS, else the least of affinity, cgroup quota and core count."""
    if os.environ.get("FASTCNN_NUM_THREADS"):
        return _positive("FASTCNN_NUM_THREADS", os.environ["FASTCNN_NUM_THREADS"])
    if os.environ.get("OMP_NUM_THREADS"):  # a list names one number a nesting level: the first is ours
        return _positive("OMP_NUM_THREADS", os.environ["OMP_NUM_THREADS"].split(",")[0])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, os.cpu_count() or 1, _cgroup_quota(cores)))


def openmp_version():
    """Date of the OpenMP specification built against, as yyyymm; 0 for a build without OpenMP."""
    return FASTCNN_OPENMP


def get_num_threads():
    """Return how many threads the kernels may use when the calling thread calls them.

    Returns
    -------
    int
        What `set_num_threads` set; at first `FASTCNN_NUM_THREADS`, else `OMP_NUM_THREADS`, else the least of the CPU
        affinity, the cgroup's CPU quota and the number of cores. Less where the calling thread's OpenMP limit was
        lowered, as `threadpoolctl.threadpool_limits` does. Always 1 in a build without OpenMP, and in a child forked
        from a process that had loaded fastcnn, because OpenMP's threads do not survive a fork.

    Examples
    --------
    >>> import fastcnn
    >>> fastcnn.get_num_threads() >= 1
    True
    """
    return max_threads()


def set_num_threads(num_threads):
    """Set how many threads the kernels may use, whichever thread of the process calls them.

    Results do not depend on it, to the bit. Small work stays on one thread whatever is set. Each thread that calls a
    kernel brings a team of that many of its own, so set 1 where many threads call.

    Parameters
    ----------
    num_threads : int
        At least 1. In a build without OpenMP, and in a forked child, kernels run on one thread whatever is set.

    Raises
    ------
    TypeError, ValueError
        If `num_threads` is not a positive integer.

    Examples
    --------
    >>> import fastcnn
    >>> before = fastcnn.get_num_threads()
    >>> fastcnn.set_num_threads(1)
    >>> fastcnn.get_num_threads()
    1
    >>> fastcnn.set_num_threads(before)
    """
    global _threads
    if isinstance(num_threads, bool) or not hasattr(num_threads, "__index__"):
        raise TypeError(f"num_threads: expected a positive int, got {num_threads!r}")
    if not 1 <= num_threads <= MOST_THREADS:
        raise ValueError(f"num_threads: expected an int from 1 to {MOST_THREADS}, got {num_threads!r}")
    _threads = 1 if _forked or not FASTCNN_OPENMP else num_threads


def _serial_after_fork():
    global _threads, _forked, _untold
    _untold = _threads > 1
    _forked = True
    _threads = 1


def _read_openmp_default():
    global _openmp_default
    _openmp_default = omp_get_max_threads()


# In a thread of its own, because a limit may hold for this one while it imports fastcnn.
_reader = threading.Thread(target=_read_openmp_default)
_reader.start()
_reader.join()
del _reader


set_num_threads(default_num_threads())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_serial_after_fork)
