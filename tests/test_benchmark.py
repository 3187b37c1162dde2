"""The table of cases and the timer behind `fastcnn bench` and benchmarks/."""

import gc
import json
import math
import re

import numpy as np
import pytest

import fastcnn
from fastcnn import benchmark, cli, functional, nn, reference
from fastcnn.benchmark import CASES, Case, ComparisonError, Timing, check_equal, interleave, reference_functions

FIRST_OF_GROUP = {case.group: case for case in reversed(CASES) if not case.heavy}


# --- cases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(case, id=group) for group, case in FIRST_OF_GROUP.items()])
def test_both_sides_of_a_case_agree(case):
    sides = case.sides()
    assert sides.keys() == {"reference", "fastcnn"}
    check_equal(case.name, sides["fastcnn"](), sides["reference"](), case.tolerance)  # a second call as well


def test_names_are_distinct():
    assert len({case.name for case in CASES}) == len(CASES)


def test_a_case_whose_sides_differ_is_refused():
    sides = {"reference": lambda: np.array([1.0, 2.0]), "fastcnn": lambda: np.array([1.0, 2.1])}
    message = re.escape(
        "square 2x2, result 0: expected a difference of at most 0.0001 of the largest element, 2, got 0.1"
    )
    with pytest.raises(ComparisonError, match=message):
        Case("square", "2x2", lambda rng: sides).sides()


@pytest.mark.parametrize(
    ("got", "expected", "message"),
    [
        (np.ones(2), np.ones(3), r"x, result 0: expected shape \(3,\), got \(2,\)"),
        ((1.0, 2.0), (1.0,), "x: expected 1 results, got 2"),
        ((1.0, math.nan), (1.0, 2.0), "x, result 1: expected a difference .*, got nan"),
        (np.ones(2), np.zeros(2), "x, result 0: expected a difference .* 0, got 1"),
    ],
)
def test_results_that_differ(got, expected, message):
    with pytest.raises(ComparisonError, match=message):
        check_equal("x", got, expected, 0.5)


def test_results_within_the_tolerance():
    check_equal("x", (np.array([1.0, 100.0]), 3.0), (np.array([1.9, 100.0]), 3.0), 0.01)
    check_equal("x", np.zeros((0, 3)), np.zeros((0, 3)), 0.01)


def test_layers_compute_with_the_reference_for_the_duration():
    before = {name: getattr(functional, name) for name in functional.__all__}
    with reference_functions():
        assert functional.conv2d is reference.conv2d
        assert nn.ReLU()(np.array([-1.0, 2.0])).tolist() == [0.0, 2.0]
        replaced = {name for name in functional.__all__ if getattr(functional, name) is not before[name]}
    assert replaced == {name for name in functional.__all__ if hasattr(reference, name)}
    assert {name: getattr(functional, name) for name in functional.__all__} == before


def test_the_library_is_itself_again_after_an_error():
    before = functional.relu
    with pytest.raises(KeyError), reference_functions():
        raise KeyError
    assert functional.relu is before


def test_a_step_leaves_the_library_as_it_was():
    before = functional.conv2d
    benchmark.select("LeNet-5 step batch 32")[0].sides()
    assert functional.conv2d is before


def test_select():
    assert {case.group for case in benchmark.select("CONV1D")} == {"conv1d", "conv1d_backward"}
    assert benchmark.select() == CASES
    with pytest.raises(ValueError, match=r"filter: expected part of a case's name, such as conv2d, .*; got 'fft'"):
        benchmark.select("fft")


# --- timer ----------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.calls.append("sleep")

    def function(self, name, *seconds):
        """A function that takes the given times in turn, the last one from then on."""
        left = list(seconds)

        def call():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.calls.append(name)

        return call


@pytest.fixture
def clock():
    return Clock()


def run(clock, functions, seconds=1.0, **options):
    return interleave(functions, seconds, clock=clock, sleep=clock.sleep, **options)


def test_a_function_longer_than_a_block_is_called_once_a_turn(clock):
    functions = {"a": clock.function("a", 0.25), "b": clock.function("b", 0.5)}
    timing = run(clock, functions, seconds=0.0, least=3, settle=0.125)
    warm = ["a", "a", "b", "b"]
    a, b = ["sleep", "a", "a"], ["sleep", "b", "b"]
    assert clock.calls == warm + a + b + b + a + a + b
    assert timing.seconds == {"a": [0.25] * 3, "b": [0.5] * 3}
    assert timing.rounds == 3


def test_short_functions_fill_a_block(clock):
    functions = {"a": clock.function("a", 2**-10), "b": clock.function("b", 2**-8)}
    timing = run(clock, functions, seconds=0.0, least=1, settle=0, block=2**-6)
    start = clock.calls.index("sleep")
    assert clock.calls[start:] == ["sleep"] + ["a"] * 32 + ["sleep"] + ["b"] * 8
    assert timing.ratios("b", "a") == (4.0, 4.0, 4.0)


def test_rounds_follow_from_the_time(clock):
    functions = {"a": clock.function("a", 0.25), "b": clock.function("b", 0.25)}
    # A round takes a second: two calls of each.
    assert run(clock, functions, seconds=5.0, settle=0).rounds == 5
    assert run(clock, functions, seconds=0.5, settle=0).rounds == 3


def test_the_first_call_and_the_untimed_block_do_not_count(clock):
    # The first call, the one that is timed to count calls, the untimed one of the first round, and then the timed one.
    timing = run(clock, {"a": clock.function("a", 64.0, 32.0, 16.0, 0.5)}, seconds=0.0, least=2)
    assert timing.seconds == {"a": [0.5, 0.5]}


def test_median_fastest_and_quartiles():
    timing = Timing({"a": [1.0, 9.0, 2.0], "b": [4.0, 4.0, 4.0], "c": [8.0, 8.0, 4.0]})
    assert timing.median("a") == 2.0
    assert timing.fastest(["b", "c"]) == "b"
    assert timing.fastest(["a", "b", "c"]) == "a"
    assert timing.ratios("c", "b") == (1.5, 2.0, 2.0)


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collection_is_off_while_timing_and_then_as_before(collecting, clock):
    seen = []

    def function():
        clock.now += 1.0
        seen.append(gc.isenabled())
        if len(seen) == 5:
            raise KeyError

    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(KeyError):
            run(clock, {"a": function})
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()
    assert seen[2:] == [False] * 3


# --- report and command line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(123.4, "123 s"), (1.5, "1.50 s"), (0.0123, "12.3 ms"), (0.999, "999 ms"), (5.2e-6, "5.20 us"), (3e-8, "0.03 us")],
)
def test_duration(seconds, text):
    assert benchmark.duration(seconds) == text


def test_bench(capsys, tmp_path, threads):
    path = tmp_path / "figures.json"
    options = ["--filter", "cross_entropy", "--seconds", "0.01", "--threads", "1", "--json", str(path)]
    assert cli.main(["bench", *options]) == 0
    assert fastcnn.get_num_threads() == 1
    output = capsys.readouterr()
    assert output.err == ""
    header, table = output.out.split("\n\n")
    found = dict(re.split(r"  +", line, maxsplit=1) for line in header.splitlines())
    assert found.keys() == benchmark.machine().keys()
    assert found["threads"] == "1"
    assert found["instruction set"] == fastcnn.show_config("dicts")["instruction set"]
    title, *rows = table.splitlines()
    assert title.split() == ["case", "NumPy", "fastcnn", "ratio", "middle", "half", "rounds"]
    assert len(rows) == 1
    assert re.fullmatch(r"cross_entropy 128x100 +[\d.]+ [mu]s +[\d.]+ [mu]s +[\d.]+ +[\d.]+ to [\d.]+ +\d+", rows[0]), (
        rows[0]
    )
    figures = json.loads(path.read_text())
    assert figures["machine"] == found
    (case,) = figures["cases"]
    assert (case["group"], case["shape"]) == ("cross_entropy", "128x100")
    assert case["low"] <= case["ratio"] <= case["high"]
    assert case["reference"] > 0
    assert case["fastcnn"] > 0
    assert case["rounds"] >= 3


def test_bench_does_not_time_what_differs(monkeypatch, capsys):
    wrong = Case("sum", "1", lambda rng: {"reference": lambda: 1.0, "fastcnn": lambda: 2.0})
    monkeypatch.setattr(benchmark, "CASES", [wrong])
    monkeypatch.setattr(benchmark, "interleave", lambda *_: pytest.fail("timed"))
    assert cli.main(["bench"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("fastcnn bench: error: sum 1, result 0: expected a difference of at most 0.0001 ")
    assert error.count("\n") == 1


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
    assert case["reference"] > 5 * case["fastcnn"]
