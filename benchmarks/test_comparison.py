"""The commands: two builds, and fastcnn beside PyTorch where that is installed. No timing is asserted."""

import json
from pathlib import Path

import compare_builds
import compare_torch
import numpy as np
import pytest
from comparison import builds, ours, problems, sides
from comparison.problems import ORDERS, Setting

import fastcnn

BUILD = Path(fastcnn.__file__).parents[1]
QUICK = ["--seconds", "0.01", "--threads", "1"]
needs_torch = pytest.mark.skipif(not sides.has_torch(), reason="PyTorch is not installed")


def wrong_build(folder, change):
    """Return a folder with a build of fastcnn that is this one but for a change, as Python statements."""
    (folder / "fastcnn").mkdir()
    real = BUILD / "fastcnn"
    lines = [f"__path__ = [{str(real)!r}]", f"exec(open({str(real / '__init__.py')!r}).read())", change]
    (folder / "fastcnn" / "__init__.py").write_text("\n".join(lines) + "\n")
    return folder


def compare(tmp_path, before, after, *options):
    """Run compare_builds; return its exit status, its header, and the rows and failed rows of its table."""
    path = tmp_path / "out.json"
    arguments = ["--before", str(before), "--after", str(after), "--processes", "1", *QUICK, "--json", str(path)]
    status = compare_builds.main([*arguments, *options])
    found = json.loads(path.read_text())
    (table,) = found["tables"].values()
    return status, found["header"], table["rows"], table["failed"]


def test_two_builds(tmp_path, capsys):
    options = ["--filter", "LeNet-5 step, batch 1, NCHW", "--processes", "2", "--precision", "both", "--isa", "generic"]
    status, header, rows, failed = compare(tmp_path, BUILD, BUILD, *options)
    assert (status, failed) == (0, [])
    assert header["before: file"] == header["after: file"] == fastcnn.__file__
    assert header["after: instruction set"] == "generic"
    assert header["after: threads"] == "1"
    assert "--isa generic" in header["command"]
    assert [(row["name"], row["precision"]) for row in rows] == [
        ("LeNet-5 step, batch 1, NCHW", precision) for precision in ("highest", "high")
    ]
    for row in rows:
        assert row["interval"][0] <= row["ratio"] <= row["interval"][1]
        assert row["turns"]["groups"] == [0] * 5 + [1] * 5  # five rounds in each of two pairs of processes
        assert len(row["turns"]["seconds"]["before"]) == len(row["turns"]["seconds"]["after"]) == row["rounds"] == 10
        assert row["turns"]["load"]
        assert len(row["turns"]["pair"]) == 10
        assert row["cores"].keys() == {"before", "after"}
    assert "after/before" in capsys.readouterr().out


def test_a_build_that_computes_something_else_is_reported_and_the_other_rows_are_kept(tmp_path, capsys):
    change = """
from fastcnn import functional
_right = functional.conv2d
functional.conv2d = lambda *a, **o: _right(*a, **o) * (1 + 1e-3)
"""
    wrong = wrong_build(tmp_path, change)
    options = ["--filter", "32x16x32x32 -> 16", "--precision", "highest"]
    status, header, rows, failed = compare(tmp_path, BUILD, wrong, *options)
    assert status == 1
    assert header["after: file"].startswith(str(wrong))
    assert [row["name"].split()[4] for row in rows] == ["data,", "data,", "weight,", "weight,"]
    assert [row["name"].split()[4] for row in failed] == ["forward,", "forward,"]
    assert "expected a difference of at most 2e-05 of the largest element" in failed[0]["error"]
    captured = capsys.readouterr()
    assert "32x16x32x32 -> 16 3x3 forward, NCHW: FAILED: " in captured.out
    assert captured.err == "2 rows FAILED\n"


def test_a_build_that_crashes_is_reported_and_the_other_rows_are_kept(tmp_path):
    change = """
import os, sys
from fastcnn import functional
def conv2d(*a, **o):
    print("about to crash", file=sys.stderr)
    sys.stderr.flush()
    os.abort()
functional.conv2d = conv2d
"""
    options = ["--filter", "32x16x32x32 -> 16", "--precision", "highest"]
    status, _, rows, failed = compare(tmp_path, wrong_build(tmp_path, change), BUILD, *options)
    assert (status, len(rows), len(failed)) == (1, 4, 2)
    assert "before: the process ended (" in failed[0]["error"]
    assert "about to crash" in failed[0]["error"]


def test_a_slower_build_has_a_larger_time(tmp_path):
    change = """
import time
from fastcnn import functional
_right = functional.conv2d
functional.conv2d = lambda *a, **o: (time.sleep(0.2), _right(*a, **o))[1]
"""
    options = ["--filter", "32x16x32x32 -> 16 3x3 forward, NCHW", "--precision", "highest"]
    _, _, (row,), _ = compare(tmp_path, BUILD, wrong_build(tmp_path, change), *options)
    assert row["after"] > 0.2
    assert row["ratio"] == pytest.approx(row["after"] / row["before"], rel=1)


@pytest.mark.parametrize(
    ("before", "message"),
    [("no/such/python", "no/such/python"), (str(BUILD / "fastcnn"), "--before: expected a folder that holds fastcnn")],
)
def test_what_is_not_a_build(before, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        compare(tmp_path, before, BUILD)


@pytest.mark.parametrize(
    ("main", "options", "message"),
    [
        (compare_builds.main, ["--before", ".", "--after", ".", "--seconds", "0"], "--seconds: expected a positive"),
        (compare_builds.main, ["--before", ".", "--after", ".", "--cpu-time"], "--cpu-time needs --threads 1"),
        (compare_torch.main, ["--threads", "0"], "--threads: expected a positive number, got 0"),
        (compare_torch.main, ["training", "--epochs", "-1"], "--epochs: expected a positive number, got -1"),
        (compare_torch.main, ["--cpu-time"], "--cpu-time needs --threads 1"),
        (compare_torch.main, ["speed"], "invalid choice: 'speed'"),
    ],
)
def test_wrong_arguments(main, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_rows_of_two_builds():
    names = [row.name for row in builds.ROWS]
    assert len(set(names)) == len(names)
    for part in (
        "LeNet-5 step, batch 1,",
        "LeNet-5 step, batch 32",
        "LeNet-5 step, batch 128",
        "ResNet-20",
        "VGG-small",
    ):
        assert {name.rpartition(", ")[2] for name in names if part in name} == set(ORDERS)
    for channels in (16, 64):
        convolutions = [name for name in names if f"x{channels}x32x32 -> {channels} 3x3" in name]
        assert len(convolutions) == len(ORDERS) * len(problems.PASSES)


# --- beside PyTorch -------------------------------------------------------------------------------------------------


def torch_command(tmp_path, *arguments):
    path = tmp_path / "out.json"
    status = compare_torch.main([*arguments, *QUICK, "--json", str(path)])
    found = json.loads(path.read_text())
    return status, found["header"], [row for table in found["tables"].values() for row in table["rows"]]


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(sides, "has_torch", lambda: False)


def test_fastcnn_alone(alone, tmp_path):
    arguments = ["convolutions", "--filter", "64x1x28x28 -> 6 5x5 forward", "--precision", "high"]
    status, header, rows = torch_command(tmp_path, *arguments)
    assert status == 0
    assert header["PyTorch"].startswith("not installed")
    assert header["fastcnn: float32 matmul precision"] == "high"
    assert [row["name"] for row in rows] == [f"64x1x28x28 -> 6 5x5 forward, {order}" for order in ORDERS]
    assert all(row["error"] < 1e-6 for row in rows)
    assert not any("ratio" in row for row in rows)


@pytest.mark.parametrize("name", ["LeNet-5 evaluation", "batch norm and ReLU forward and backward, 8x64", "Adam"])
def test_steps_alone(name, alone, tmp_path):
    status, _, rows = torch_command(tmp_path, "steps", "--filter", name)
    assert status == 0
    assert len(rows) == (1 if name == "Adam" else 2)


def test_other_commands_alone(alone, tmp_path):
    assert torch_command(tmp_path, "loader", "--filter", "LeNet-5, batch 8")[2][0]["rate"] > 0
    _, _, rows = torch_command(tmp_path, "error", "--filter", "forward 36")
    assert {value < 1e-6 for key, value in rows[0].items() if key not in ("name", "precision")} == {True}
    status, _, rows = torch_command(tmp_path, "bits", "--filter", "generic")
    assert status == 0
    assert len({row["hash"] for row in rows}) == 1


@needs_torch
@pytest.mark.parametrize(
    "name",
    ["LeNet-5 step, batch 8", "depthwise-separable net step, batch 16", "LeNet-5 evaluation", "max-pool 3x3", "Adam"],
)
def test_steps_beside_torch(name, tmp_path):
    status, header, rows = torch_command(tmp_path, "steps", "--filter", name, "--no-compile")
    assert status == 0
    assert header["PyTorch: threads"] == "1"
    for row in rows:
        assert row["interval"][0] <= row["ratio"] <= row["interval"][1]
        assert row["best"] in row["settings"]
        assert row["torch"] == min(row["settings"].values())


@needs_torch
def test_a_convolution_beside_torch(tmp_path):
    status, _, rows = torch_command(tmp_path, "convolutions", "--filter", "64x6x14")
    assert status == 0
    assert len(rows) == 6
    assert all(row["settings"].keys() == {"contiguous"} for row in rows if row["order"] == "NCHW")
    assert all(row["settings"].keys() == {"contiguous", "channels-last"} for row in rows if row["order"] != "NCHW")


@needs_torch
def test_the_process_of_torch_has_no_fastcnn_and_the_reverse():
    options = compare_torch.parse(QUICK)
    for process, other in ((sides.OURS, "torch"), (sides.THEIRS, "fastcnn")):
        with sides.worker(process, options) as worker:
            loaded = worker.call("comparison.problems:loaded", other)
        assert not loaded


# --- what both sides compute with -----------------------------------------------------------------------------------


def test_memory_orders():
    array = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    plain, last = (problems.ordered(array, order) for order in ORDERS)
    assert plain.flags.c_contiguous
    assert last.transpose(0, 2, 3, 1).flags.c_contiguous
    assert np.array_equal(plain, array)
    assert np.array_equal(last, array)
    assert problems.ordered(np.zeros((2, 1, 4, 5), np.float32), "channels-last").strides == (80, 4, 20, 4)


def test_weights_depend_on_names_and_shapes_alone():
    first, second = (ours.network("LeNet-5").state_dict() for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    filled = problems.weights({"a.weight": np.zeros((64, 9)), "b.weight": np.zeros((64, 9)), "n": np.array(3)})
    assert not np.array_equal(filled["a.weight"], filled["b.weight"])
    assert filled["a.weight"].std() == pytest.approx(np.sqrt(2 / 9), rel=0.1)
    assert filled["n"] == 3


def test_settings_of_torch():
    contiguous, last, from_nchw = Setting(), Setting("channels-last", "channels-last"), Setting("channels-last")
    assert [setting.name for setting in (contiguous, last, from_nchw)] == [
        "contiguous",
        "channels-last",
        "channels-last from NCHW",
    ]
    assert Setting(compiled=True, optimizer="fused").name == "contiguous, compiled, fused"
    assert [setting.suits("NCHW") for setting in (contiguous, last, from_nchw)] == [True, False, True]
    assert [setting.suits("channels-last") for setting in (contiguous, last, from_nchw)] == [True, True, False]
