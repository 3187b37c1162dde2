"""Comparison of speeds: cases and their bounds, processes that hold a side, turns and statistics, `fastcnn bench`."""

import importlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import fastcnn
from fastcnn import cli, functional, nn, reference
from fastcnn.benchmark import cases, report, timing
from fastcnn.benchmark import worker as protocol
from fastcnn.benchmark.cases import CASES, Case, ComparisonError, check_close, check_step, check_sums
from fastcnn.benchmark.timing import Ratio, Side, Timing, bootstrap, take_turns
from fastcnn.benchmark.worker import Worker, WorkerDied, WorkerError, Workers, thread_variables

FIRST_OF_GROUP = {case.group: case for case in reversed(CASES)}
ROUNDING = cases.ROUNDINGS * 2.0**-24


def compute(case, side):
    """What a side of a case returns, in this process."""
    module, _, name = case.target.partition(":")
    return getattr(importlib.import_module(module), name)(side, 0, *case.arguments)()


# --- cases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(case, id=group) for group, case in FIRST_OF_GROUP.items()])
def test_both_sides_of_a_case_agree(case):
    case.compare(lambda side: compute(case, side))


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=group) for group, case in FIRST_OF_GROUP.items() if case.compared == "sums"]
)
def test_a_wrong_element_is_noticed(case):
    results = {side: compute(case, side) for side in ("numpy", "magnitude")}
    results = {side: value if isinstance(value, tuple) else (value,) for side, value in results.items()}
    for i, magnitude in enumerate(results["magnitude"]):
        for part in (0, -1):
            wrong = [np.array(value, np.float64) for value in results["numpy"]]
            wrong[i].ravel()[part] += 1e-4 * np.max(magnitude)
            found = results | {"fastcnn": tuple(wrong)}
            with pytest.raises(ComparisonError, match=f"^{re.escape(case.name)}, result {i}: "):
                case.compare(found.__getitem__)


def test_names_are_distinct():
    assert len({case.name for case in CASES}) == len(CASES) == 36


def test_sums_may_differ_by_rounding_of_what_is_added_up():
    # A sum that cancels: 1000 - 1000 + 1 is small, and its rounding is not.
    check_sums("x", np.array([1.0, 0.5]), np.array([1.0 + 2000 * ROUNDING, 0.5]), np.array([2001.0, 0.5]))
    message = re.escape("x, result 1: expected a difference of at most 64 units of rounding of the magnitudes added up")
    with pytest.raises(ComparisonError, match=message + r", 3\.815e-06, got 4e-06 at \(0,\)"):
        check_sums("x", (0.0, np.array([1 + 4e-6])), (0.0, np.ones(1)), (0.0, np.ones(1)))
    with pytest.raises(ComparisonError, match=r"at \(1, 0\)"):
        check_sums("x", np.array([[0.0, 1], [np.nan, 1]]), np.ones((2, 2)) * [[0, 1]], np.ones((2, 2)))


@pytest.mark.parametrize(
    ("got", "expected", "message"),
    [
        (np.ones(2), np.ones(3), r"x, result 0: expected shape \(3,\), got \(2,\)"),
        ((1.0, 2.0), (1.0,), "x: expected 1 results, got 2"),
        ((1.0, np.nan), (1.0, 2.0), "x, result 1: expected a difference .*, got nan"),
        (np.ones(2), np.zeros(2), "x, result 0: expected a difference .* 0, got 1"),
    ],
)
def test_results_that_differ(got, expected, message):
    with pytest.raises(ComparisonError, match=message):
        check_close("x", got, expected, 0.5)


def test_results_within_the_tolerance():
    check_close("x", (np.array([1.0, 100.0]), 3.0), (np.array([1.9, 100.0]), 3.0), 0.01)
    check_close("x", np.zeros((0, 3)), np.zeros((0, 3)), 0.01)


def test_a_step_is_compared_by_its_loss_and_by_all_gradients_as_one_vector():
    loss, large, small = 2.3, np.full((100, 100), 0.5), np.full(10, 1e-3)
    one_gate = small.copy()
    one_gate[3] *= 1.5  # an activation within rounding of zero passed its gradient on one side alone
    check_step("x", (loss * (1 + 1e-6), large, one_gate), (loss, large, small))
    with pytest.raises(ComparisonError, match="x, loss, result 0: expected a difference of at most 1e-05"):
        check_step("x", (loss * (1 + 1e-4), large, small), (loss, large, small))
    with pytest.raises(
        ComparisonError, match=r"expected gradients that differ by at most 0\.05 of their norm, 50, got 5"
    ):
        check_step("x", (loss, large * 1.1, small), (loss, large, small))
    with pytest.raises(ComparisonError, match="got nan"):
        check_step("x", (loss, large * np.nan, small), (loss, large, small))


def test_a_step_is_compared_in_float64_as_well():
    case = Case("step", "", "", compared="steps")
    results = {"numpy": (1.0, np.ones(4)), "fastcnn": (1.0, np.ones(4)), "numpy float64": (1.0, np.ones(4))}
    case.compare((results | {"fastcnn float64": (1.0, np.ones(4) + 1e-12)}).__getitem__)
    with pytest.raises(ComparisonError, match="step  in float64, result 1: "):
        case.compare((results | {"fastcnn float64": (1.0, np.ones(4) + 1e-6)}).__getitem__)


def test_layers_compute_with_the_reference_for_the_duration():
    before = {name: getattr(functional, name) for name in functional.__all__}
    with cases.reference_functions():
        assert functional.conv2d is reference.conv2d
        assert nn.ReLU()(np.array([-1.0, 2.0])).tolist() == [0.0, 2.0]
        replaced = {name for name in functional.__all__ if getattr(functional, name) is not before[name]}
    assert replaced == {name for name in functional.__all__ if hasattr(reference, name)}
    assert {name: getattr(functional, name) for name in functional.__all__} == before


def test_the_library_is_itself_again_after_an_error():
    before = functional.relu
    with pytest.raises(KeyError), cases.reference_functions():
        raise KeyError
    assert functional.relu is before


def test_select():
    assert {case.group for case in cases.select("CONV1D")} == {"conv1d", "conv1d_backward"}
    assert cases.select() == CASES
    with pytest.raises(ValueError, match=r"filter: expected part of a case's name, such as conv2d, .*; got 'fft'"):
        cases.select("fft")


# --- workers --------------------------------------------------------------------------------------------------------

HELPERS = """
import gc, os, sys, time

def accumulator():
    import numpy as np
    total = np.zeros(2)
    def call():
        total[:] += 1
        return total, "text"
    return call

class Tensor:
    def __init__(self, array): self.array = array
    def detach(self): return self
    def numpy(self): return self.array

def tensor():
    import numpy as np
    return lambda: [Tensor(np.arange(3)), 5]

counted = []
def counter(seconds):
    return lambda: (time.sleep(seconds), counted.append(gc.isenabled()))

def count(): return len(counted), set(counted)

def noisy(): print("to stdout"); print("to stderr", file=sys.stderr); return sys.stdin.read()

def die(status=3): print("last words", file=sys.stderr, flush=True); os._exit(status)

def crash(): os.abort()

def fail(): raise KeyError("what was wrong\\nand more")

def sleep(seconds): time.sleep(seconds)

def big(size): return bytes(size)

def side(side, seed, value, differs=0.0, dies=False):
    def call():
        if dies and side == "fastcnn": os._exit(7)
        return value + (differs if side == "fastcnn" else 0.0)
    return call
"""


@pytest.fixture
def helpers(tmp_path):
    (tmp_path / "helpers_of_a_test.py").write_text(HELPERS)
    return str(tmp_path)


def helper(name):
    return f"helpers_of_a_test:{name}"


def test_a_worker_calls_and_keeps(helpers):
    with Worker("w", path=[helpers]) as worker:
        assert worker.call("math:hypot", 3, 4) == 5.0
        worker.make("a", helper("accumulator"))
        results = worker.results("a", 3)
        assert [array.tolist() for array, _ in results] == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]  # not one array thrice
        worker.make("t", helper("tensor"))
        ((array, number),) = worker.results("t")
        assert (array.tolist(), number) == ([0, 1, 2], 5)
        assert len(worker.call(helper("big"), 3_000_000)) == 3_000_000
        worker.drop("t")
        with pytest.raises(WorkerError, match="w: KeyError: 't'"):
            worker.results("t")
        worker.clear()
        with pytest.raises(WorkerError, match="w: KeyError: 'a'"):
            worker.results("a")


def test_a_worker_times_bursts(helpers):
    with Worker("w", path=[helpers]) as worker:
        worker.make("c", helper("counter"), 0.002)
        calls, seconds = worker.count("c", 0.02)
        assert 1 <= calls <= 10
        assert seconds >= 0.002
        before, _ = worker.call(helper("count"))
        bursts = worker.turn("c", 3, 4)
        after, collecting = worker.call(helper("count"))
        assert after - before == 3 * 5  # one burst is not timed
        assert len(bursts) == 4
        assert all(wall >= 0.006 and processor >= 0 for wall, processor in bursts)
        assert collecting == {True, False}  # on where calls are counted, off in a turn
        worker.start_spin(0.01)
        assert worker.finish_spin() > 0


def test_an_error_leaves_a_worker_as_it_was(helpers):
    with Worker("w", path=[helpers]) as worker:
        with pytest.raises(WorkerError, match=r"^w: KeyError: 'what was wrong") as error:
            worker.call(helper("fail"))
        assert not isinstance(error.value, WorkerDied)
        with pytest.raises(WorkerError, match="ModuleNotFoundError: No module named 'no_such_module'"):
            worker.make("x", "no_such_module:f")
        assert worker.call(helper("noisy")) == ""  # what it prints is no reply, and there is no input
        assert worker.call("math:sqrt", 4.0) == 2.0


@pytest.mark.parametrize(("name", "how"), [("die", r"exit status 3\): last words"), ("crash", "signal 6|exit status")])
def test_a_worker_that_dies(name, how, helpers):
    with Worker("w", path=[helpers]) as worker:
        with pytest.raises(WorkerDied, match=f"w: the process ended \\(({how})"):
            worker.call(helper(name))
        with pytest.raises(WorkerDied, match=r"w: the process ended \("):
            worker.call("math:sqrt", 4.0)


@pytest.mark.parametrize("kept", [0, 3, 8, 20])
def test_a_reply_that_is_cut_is_no_reply(kept):
    whole = BytesIO()
    protocol._write(whole, list(range(100)))
    with pytest.raises(EOFError):
        protocol._read(BytesIO(whole.getvalue()[:kept]))
    assert pickle.loads(protocol._read(BytesIO(whole.getvalue()))) == list(range(100))


def test_bench_measures_the_package_that_runs_it(tmp_path):
    """Also where another one is installed, or none."""
    shutil.copytree(Path(fastcnn.__file__).parent, tmp_path / "fastcnn")
    code = """
import os, fastcnn
from fastcnn.benchmark.report import start_workers
with start_workers(1) as workers:
    print(os.path.samefile(workers["fastcnn"].call("fastcnn.config:get_include"), fastcnn.get_include()))
"""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path.parent)
    assert done.stdout == "True\n"


def test_a_worker_that_hangs_is_killed(helpers):
    with Worker("w", path=[helpers], patience=1.5) as worker:
        start = time.monotonic()
        with pytest.raises(WorkerDied, match=r"w: no answer within 1.5 s; killed"):
            worker.call(helper("sleep"), 60)
        assert time.monotonic() - start < 30


def test_path_environment_and_interpreter(helpers, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/no/such/folder", *sys.path]))
    with Worker("w", path=[helpers], python=sys.executable, environment=thread_variables(3)) as worker:
        assert worker.call("os:getenv", "PYTHONPATH").split(os.pathsep)[:2] == [helpers, "/no/such/folder"]
        assert worker.call("os:getenv", "OPENBLAS_NUM_THREADS") == "3"
        assert worker.call("fastcnn:get_num_threads") == 3
    with pytest.raises(OSError, match="no/such/python"):
        Worker("w", python="no/such/python")


def test_closing_a_worker_ends_it_in_the_middle_of_a_call(helpers):
    worker = Worker("w", path=[helpers])
    worker.call("math:sqrt", 4.0)
    worker._send("call", helper("sleep"), (60,), {})
    start = time.monotonic()
    worker.close()
    assert worker._process.returncode is not None
    assert time.monotonic() - start < 30
    worker.close()


def alive():
    """Numbers and groups of the processes that run; one that waits for its parent to read its status does not."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    found = [line.split() for line in listed.splitlines()]
    return {int(number) for *numbers, state in found if not state.startswith("Z") for number in numbers}


def gone(pid):
    """Whether a process, or a group, has ended, or will within ten seconds."""
    for _ in range(100):
        if pid not in alive():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
@pytest.mark.parametrize("busy", [True, False])
def test_no_worker_outlives_its_parent(busy, helpers):
    code = f"""
import sys
from fastcnn.benchmark.worker import Worker
workers = [Worker("w", path=[{helpers!r}]) for _ in range(2)]
for worker in workers:
    worker.call("math:sqrt", 4.0)
    if {busy}:
        worker._send("call", "helpers_of_a_test:sleep", (60,), {{}})
print(*(worker.pid for worker in workers), flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        pids = [int(text) for text in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    assert all(map(gone, pids))


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps, and sends SIGINT to a group of processes")
def test_ctrl_c_ends_bench_and_its_processes():
    command = [sys.executable, "-m", "fastcnn", "bench", "--filter", "relu", "--seconds", "60", "--threads", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        while "case" not in process.stdout.readline():  # the header came from the workers, which therefore live
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    assert errors == "fastcnn bench: interrupted\n"
    assert gone(process.pid)  # nobody is left in the group


def test_workers_are_started_once_and_again_after_an_error(helpers):
    started = []

    def start(name):
        started.append(name)
        return Worker(name, path=[helpers])

    with closing(Workers(start)) as workers:
        with workers:
            first = workers["a"].pid
            assert workers["a"].pid == first
        assert workers["a"].pid == first
        with pytest.raises(WorkerError), workers:
            workers["a"].call(helper("fail"))
        assert workers["a"].pid != first
    assert started == ["a", "a"]


# --- turns ----------------------------------------------------------------------------------------------------------


class FakeWorker:
    """A worker whose calls take the times that a test says, of a clock that nothing else moves but pauses."""

    def __init__(self, clock, **seconds):
        self.clock, self.seconds = clock, seconds

    def count(self, key, seconds):
        self.clock.events.append(f"count {key}")
        return max(1, round(seconds / self.seconds[key])), self.seconds[key]

    def turn(self, key, calls, bursts):
        self.clock.events.append(f"{key} {calls}x{bursts}")
        wall = calls * self.seconds[key]
        self.clock.now += (bursts + 1) * wall
        return [(wall * (1 + i / 8), wall / 2) for i in range(bursts)]

    def start_spin(self, seconds):
        self.clock.spins += 1

    def finish_spin(self):
        self.clock.spins -= 1
        return 12.0 if self.clock.spins else 16.0  # two at once count less


class Clock:
    def __init__(self):
        self.now, self.events, self.spins = 0.0, [], 0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.events.append("pause")


@pytest.fixture
def clock():
    return Clock()


def turns(clock, sides, seconds=0.0, **options):
    return take_turns([Side(*side) for side in sides], seconds, clock=clock, sleep=clock.sleep, **options)


def test_the_order_is_reversed_and_pauses_are_where_the_process_changes(clock):
    a, b = FakeWorker(clock, x=2**-9, y=2**-9), FakeWorker(clock, z=2**-9)
    found = turns(clock, [("x", a), ("y", a), ("z", b)], least=2, burst=2**-6)
    assert clock.events[:5] == ["pause", "count x", "count y", "pause", "count z"]
    assert clock.events[5:] == [
        "pause",
        "x 8x3",
        "y 8x3",
        "pause",
        "z 8x3",
        "pause",
        "z 8x3",
        "pause",
        "y 8x3",
        "x 8x3",
    ]
    assert found.rounds == 2
    assert found.seconds["x"] == [[2**-9, 2**-9 * 1.125, 2**-9 * 1.25]] * 2


def test_a_long_call_is_one_burst_of_one_call(clock):
    found = turns(clock, [("x", FakeWorker(clock, x=0.5))], least=2)
    assert clock.events.count("x 1x1") == 2
    assert found.seconds == {"x": [[0.5], [0.5]]}


def test_rounds_follow_from_the_time(clock):
    sides = [("x", FakeWorker(clock, x=0.25)), ("y", FakeWorker(clock, y=0.25))]
    # A round takes a second: two calls of each.
    assert turns(clock, sides, seconds=7.0, pause=0).rounds == 7
    assert turns(clock, sides, seconds=0.5, pause=0).rounds == 5


def test_what_the_machine_did_is_kept_beside(clock, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0, 0), raising=False)
    found = turns(clock, [("x", FakeWorker(clock, x=1.0)), ("y", FakeWorker(clock, y=1.0))], least=3)
    assert found.pair == [(16.0 + 12.0) / 16.0] * 3
    assert found.load == [1.5] * 3
    assert found.cores == {"x": [0.5] * 3, "y": [0.5] * 3}
    assert found.state() == {"cores": {"x": 0.5, "y": 0.5}, "pair": 1.75, "load": 1.5}
    assert turns(clock, [("x", FakeWorker(clock, x=1.0))], least=3).pair == []


def test_processor_time(clock):
    found = turns(clock, [("x", FakeWorker(clock, x=0.5))], least=1, processor_time=True)
    assert found.seconds == {"x": [[0.25]]}


def test_timing():
    found = Timing(
        {"a": [[1.0, 3.0, 2.0], [9.0], [2.0]], "b": [[4.0], [4.0], [4.0]], "c": [[8.0], [8.0], [4.0]]},
        {name: [1.0] * 3 for name in "abc"},
        groups=[0, 0, 0],
    )
    assert found.turns("a") == [2.0, 9.0, 2.0]
    assert found.median("a") == 2.0
    assert found.fastest(["b", "c"]) == "b"
    assert found.fastest(["a", "b", "c"]) == "a"
    assert found.ratio("c", "b") == Ratio(2.0, 1.0, 2.0)
    both = Timing().extended(found).extended(found)
    assert both.groups == [0, 0, 0, 1, 1, 1]
    assert both.turns("a") == [2.0, 9.0, 2.0] * 2
    assert json.loads(json.dumps(both.raw()))["groups"] == both.groups


def test_bootstrap_on_known_numbers():
    assert bootstrap([3.0] * 7, [2.0] * 7) == (1.5, 1.5, 1.5)
    assert bootstrap([6.0], [2.0]) == (3.0, 3.0, 3.0)
    # Of five values, the median of a resample is an extreme where it is drawn three times: 5.8 % of resamples.
    assert bootstrap([1.0, 2.0, 4.0, 8.0, 16.0], [1.0] * 5) == (4.0, 1.0, 16.0)
    assert bootstrap([1.0, 2.0, 4.0, 8.0, 16.0], [1.0] * 5, level=0.5)[1:] == (2.0, 8.0)


def test_bootstrap_is_seeded_and_symmetric():
    rng = np.random.default_rng(3)
    a, b = rng.lognormal(size=20), rng.lognormal(size=20)
    value, low, high = bootstrap(a, b)
    assert bootstrap(a, b) == (value, low, high)
    assert bootstrap(a, b, seed=1)[0] == value
    assert bootstrap(b, a) == pytest.approx((1 / value, 1 / high, 1 / low))
    assert low < value < high


def test_the_interval_covers_the_true_ratio():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        drift = rng.lognormal(sigma=0.5, size=15)  # what slows both sides of a round
        a, b = 1.2 * drift * rng.lognormal(sigma=0.1, size=15), drift * rng.lognormal(sigma=0.1, size=15)
        _, low, high = bootstrap(a, b, resamples=300)
        covered += low <= 1.2 <= high
    assert 180 <= covered <= 199  # of a level of 95 %


def test_the_interval_covers_what_differs_between_processes():
    rng = np.random.default_rng(0)
    covered = {"groups": 0, "none": 0}
    for _ in range(100):
        offset = np.repeat(rng.lognormal(sigma=0.05, size=5), 10)
        a, b = offset * rng.lognormal(sigma=0.01, size=50), np.ones(50)
        for name, groups in (("groups", np.repeat(np.arange(5), 10)), ("none", None)):
            _, low, high = bootstrap(a, b, groups, resamples=300)
            covered[name] += low <= 1 <= high
    assert covered["groups"] >= 80
    assert covered["none"] < covered["groups"]


# --- report and command line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(123.4, "123 s"), (1.5, "1.50 s"), (0.0123, "12.3 ms"), (0.999, "999 ms"), (5.2e-6, "5.20 us"), (3e-8, "0.03 us")],
)
def test_duration(seconds, text):
    assert report.duration(seconds) == text


def test_bench(capsys, tmp_path):
    path, before = tmp_path / "figures.json", fastcnn.get_num_threads()
    options = ["--filter", "cross_entropy", "--seconds", "0.01", "--threads", "1", "--json", str(path)]
    assert cli.main(["bench", *options]) == 0
    assert fastcnn.get_num_threads() == before
    output = capsys.readouterr()
    assert output.err == ""
    header, table = output.out.split("\n\n")
    found = dict(re.split(r"  +", line, maxsplit=1) for line in header.splitlines())
    assert found["threads"] == "1"
    assert found["NumPy's products"].endswith("threads: 1")
    assert found["instruction set"] == fastcnn.show_config("dicts")["instruction set"]
    title, *rows = table.splitlines()
    assert title.split() == ["case", "NumPy", "fastcnn", "ratio", "95%", "interval", "rounds", "cores", "pair"]
    assert len(rows) == 1
    times = r" +[\d.]+ [mu]?s +[\d.]+ [mu]?s +[\d.]+ +[\d.]+ to [\d.]+ +\d+  [\d.]+ [\d.]+ +[\d.]+"
    assert re.fullmatch(f"cross_entropy 128x100{times}", rows[0]), rows[0]
    figures = json.loads(path.read_text())
    assert figures["machine"] == found
    assert figures["failed"] == []
    (case,) = figures["cases"]
    assert (case["group"], case["shape"]) == ("cross_entropy", "128x100")
    assert case["low"] <= case["ratio"] <= case["high"]
    assert case["rounds"] >= 5
    assert all(case[side] > 0 and len(case["turns"]["seconds"][side]) == case["rounds"] for side in cases.SIDES)
    assert case["cores"].keys() == set(cases.SIDES)


def test_bench_reports_what_fails_and_keeps_the_rest(monkeypatch, helpers, capsys, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")]))
    good = Case("good", "1", helper("side"), (1.0,))
    differs = Case("differs", "2", helper("side"), (1.0, 0.5))
    dies = Case("dies", "3", helper("side"), (1.0, 0.0, True))
    missing = Case("missing", "4", "no_such_module:side")
    again = Case("good", "5", helper("side"), (1.0,))
    monkeypatch.setattr(cases, "CASES", [good, differs, dies, missing, again])
    path = tmp_path / "figures.json"
    assert cli.main(["bench", "--seconds", "0.01", "--json", str(path)]) == 1
    output = capsys.readouterr()
    assert output.err == "fastcnn bench: error: 3 of 5 cases failed: differs 2; dies 3; missing 4\n"
    lines = output.out.split("\n\n")[1].splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["good", "differs", "dies", "missing", "good"]
    figures = json.loads(path.read_text())
    assert [row["shape"] for row in figures["cases"]] == ["1", "5"]
    errors = {row["group"]: row["error"] for row in figures["failed"]}
    assert errors["differs"].startswith("differs 2, result 0: expected a difference of at most 64 units of rounding")
    assert errors["dies"] == "the process of fastcnn: the process ended (exit status 7)"
    assert "No module named 'no_such_module'" in errors["missing"]


def test_bench_does_not_time_what_differs(monkeypatch, helpers, capsys):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(cases, "CASES", [Case("differs", "1", helper("side"), (1.0, 0.5))])
    monkeypatch.setattr(report, "take_turns", lambda *_: pytest.fail("timed"))
    assert cli.main(["bench"]) == 1


def test_bench_without_a_process_that_works(monkeypatch, capsys):
    monkeypatch.setenv("FASTCNN_ISA", "no-such-path")
    assert cli.main(["bench", "--filter", "relu"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("fastcnn bench: error: the process of fastcnn: ")
    assert "no-such-path" in output.err
    assert output.err.count("\n") == 1


def test_options_of_bench_reach_the_sides(monkeypatch, capsys):
    found = []

    def record(sides, seconds):
        found.append((seconds, [side.worker.call("fastcnn:get_num_threads") for side in sides]))
        found.append([side.worker.call("os:getenv", "OPENBLAS_NUM_THREADS") for side in sides])
        return take_turns(sides, 0.0, least=1)

    monkeypatch.setattr(report, "take_turns", record)
    assert cli.main(["bench", "--filter", "cross", "--seconds", "0.5", "--threads", "3"]) == 0
    assert found == [(0.5, [3, 3]), ["3", "3"]]
    assert timing.PAUSE >= 0.05  # what the threads of OpenBLAS need to sleep


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--filter", "fft"], 1, "filter: expected part of a case's name, such as conv2d, "),
        (["--json", "no/such/folder/x.json"], 1, "no/such/folder/x.json: No such file or directory\n"),
        (["--seconds", "0"], 2, "argument --seconds: expected a positive number, got '0' "),
        (["--threads", "0"], 2, "argument --threads: expected a positive int, got '0' "),
    ],
)
def test_wrong_arguments_of_bench(options, code, message, capsys):
    try:
        got = cli.main(["bench", *options])
    except SystemExit as stop:
        got = stop.code
    output = capsys.readouterr()
    assert (got, output.out) == (code, "")
    assert output.err.startswith(f"fastcnn bench: error: {message}")
    assert output.err.count("\n") == 1


def test_the_columns_of_bench_are_not_swapped(capsys, tmp_path, threads):
    """By a case in which NumPy takes some hundred times as long."""
    path = tmp_path / "figures.json"
    options = ["--filter", "conv2d_backward 8x96x28x28", "--seconds", "0.01", "--threads", "1", "--json", str(path)]
    assert cli.main(["bench", *options]) == 0
    (case,) = json.loads(path.read_text())["cases"]
    assert case["ratio"] > 5
    assert case["numpy"] > 5 * case["fastcnn"]
