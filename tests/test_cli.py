"""The command line: what it prints, saves and refuses, and that an interrupted run goes on exactly."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastcnn
from fastcnn import cli
from fastcnn.training import read_checkpoint

pytest.importorskip("safetensors")


@pytest.fixture(autouse=True)
def threads():
    """Put the number of threads back."""
    before = fastcnn.get_num_threads()
    yield
    fastcnn.set_num_threads(before)


def run(*arguments):
    """Run the command line in this process."""
    return cli.main([str(argument) for argument in arguments])


def refused(capsys, *arguments, code=1):
    """Return the one line on standard error with which a command is refused."""
    try:
        got = run(*arguments)
    except SystemExit as stop:
        got = stop.code
    output = capsys.readouterr()
    assert got == code
    assert output.out == ""
    assert output.err.endswith("\n")
    assert output.err.count("\n") == 1
    return output.err[:-1]


def weights(path):
    return {name: value.tobytes() for name, value in read_checkpoint(path)["model"].items()}


def columns(path):
    """The history without what depends on the clock."""
    rows = read_checkpoint(path)["state"]["history"]
    return [{name: row[name] for name in row if name not in ("seconds", "images_per_second")} for row in rows]


# --- train ----------------------------------------------------------------------------------------------------------


def test_the_default_learns_the_digits(tmp_path, capfd):
    assert run("train", "--output", tmp_path / "out") == 0
    out, err = capfd.readouterr()
    assert out.startswith("digits: 1,442 training and 355 test images, 1x8x8, 10 classes\ndigits_cnn: ")
    accuracy = float(re.search(r"^test accuracy: (\d+\.\d\d)%$", out, re.MULTILINE)[1])
    assert accuracy >= 97
    epochs = cli.RECIPES["digits"].epochs
    assert re.search(r"^epoch +loss +accuracy +val loss +val accuracy +lr +images/s +seconds$", out, re.MULTILINE)
    assert re.search(rf"^ +{epochs} .* {accuracy:.2f}%", out, re.MULTILINE)
    path = tmp_path / "out" / "fastcnn-digits.safetensors"
    assert f"checkpoint: {path}\n" in out
    assert read_checkpoint(path)["state"]["epoch"] == epochs
    curve = tmp_path / "out" / "fastcnn-digits.png"
    assert f"curve: {curve}\n" in out
    assert curve.read_bytes().startswith(b"\x89PNG")
    assert f"epoch {epochs}/{epochs} |██████████| 100%, loss " in err


def test_everything_random_comes_from_the_seed(tmp_path, capsys):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = ["--epochs", 1, "--augment", "--seed", seed, "--quiet", "--output", tmp_path / folder]
        assert run("train", *options) == 0
    a, b, c = (weights(tmp_path / folder / "fastcnn-digits.safetensors") for folder in "abc")
    assert a == b
    assert a["fc.weight"] != c["fc.weight"]
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first == second


def test_quiet_prints_the_accuracy_alone(tmp_path, capfd):
    assert run("train", "--epochs", 1, "--quiet", "--output", tmp_path) == 0
    out, err = capfd.readouterr()
    assert re.fullmatch(r"test accuracy: \d+\.\d\d%\n", out)
    assert err == ""


@pytest.mark.parametrize("schedule", cli.SCHEDULES)
@pytest.mark.parametrize("optimizer", cli.LEARNING_RATES)
def test_optimizers_and_schedules(optimizer, schedule, tmp_path, capsys):
    options = ["--optimizer", optimizer, "--schedule", schedule, "--epochs", 1, "--batch-size", 256]
    assert run("train", *options, "--no-progress", "--threads", 1, "--output", tmp_path) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert ", 1 thread\n" in output.out
    extra = read_checkpoint(tmp_path / "fastcnn-digits.safetensors")["extra"]
    expected = cli.RECIPES["digits"].lr if optimizer == cli.RECIPES["digits"].optimizer else None
    assert extra["lr"] == (expected or cli.LEARNING_RATES[optimizer])
    assert (extra["optimizer"], extra["schedule"], extra["batch_size"]) == (optimizer, schedule, 256)


class Enough(ValueError):
    """Ends a run before its first update."""


def begun(monkeypatch, tmp_path, *options):
    """Return the trainer, the training data and the threads of a run, as they are when the first update would come."""
    found = []

    class Stopping(cli.Trainer):
        def fit(self, train, *arguments, **options):
            found.extend((self, train, fastcnn.get_num_threads()))
            raise Enough("enough")

    monkeypatch.setattr(cli, "Trainer", Stopping)
    assert run("train", "--quiet", "--output", tmp_path, *options) == 1
    return found


@pytest.mark.parametrize("kind", cli.LEARNING_RATES)
def test_what_the_optimizer_options_do(kind, monkeypatch, tmp_path):
    options = ["--optimizer", kind, "--lr", 0.25, "--momentum", 0.5, "--weight-decay", 0.125, "--schedule", "constant"]
    trainer, _, _ = begun(monkeypatch, tmp_path, *options)
    assert type(trainer.optimizer).__name__.lower() == kind
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.25, 0.125)
    assert kind != "sgd" or group["momentum"] == 0.5


def test_what_the_data_options_do(monkeypatch, tmp_path):
    options = ["--seed", 5, "--batch-size", 100, "--threads", 3]
    _, train, threads = begun(monkeypatch, tmp_path, *options, "--augment")
    assert (train.seed, train.batch_size, train.shuffle) == (5, 100, True)
    assert train.augment == cli.RECIPES["digits"].augmentation
    assert threads == fastcnn.get_num_threads() == 3
    _, train, _ = begun(monkeypatch, tmp_path, *options, "--no-augment")
    assert train.augment is None


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("step", [1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("cosine", [1, 0.933013, 0.75, 0.5, 0.25, 0.066987]),
        ("warmup-cosine", [0.1, 1, 0.904508, 0.654508, 0.345492, 0.095492]),
        ("onecycle", [0.04, 0.994415, 0.811746, 0.462637, 0.133478, 4e-6]),
    ],
)
def test_what_the_schedules_do(schedule, expected, monkeypatch, tmp_path):
    """The rates of a run of six updates, relative to --lr."""
    options = ["--lr", 0.5, "--optimizer", "sgd", "--epochs", 3, "--batch-size", 1000]
    trainer, train, _ = begun(monkeypatch, tmp_path, *options, "--schedule", schedule)
    assert len(train) == 2
    assert trainer.schedule_every == "step"
    rates = [trainer.optimizer.lr]
    for _ in range(5):
        if trainer.schedule is not None:
            trainer.schedule.step()
        rates.append(trainer.optimizer.lr)
    np.testing.assert_allclose(np.array(rates) / 0.5, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "argument --epochs: expected a positive int, got '0'"),
        (["--epochs", "two"], "argument --epochs: expected a positive int, got 'two'"),
        (["--lr", "nan"], "argument --lr: expected a positive number, got 'nan'"),
        (["--lr", "-1"], "argument --lr: expected a positive number, got '-1'"),
        (["--weight-decay", "inf"], "argument --weight-decay: expected a non-negative number, got 'inf'"),
        (["--seed", "-1"], "argument --seed: expected a non-negative int, got '-1'"),
        (["--learn"], "unrecognized arguments: --learn"),
        (["--batch"], "unrecognized arguments: --batch"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, message, capsys):
    line = refused(capsys, "train", *arguments, code=2)
    prog = "fastcnn" if message.startswith("unrecognized") else "fastcnn train"
    assert line == f"{prog}: error: {message} (see {prog} --help)"


@pytest.mark.parametrize("option", ["--data", "--model", "--optimizer", "--schedule"])
def test_a_wrong_choice_is_one_line(option, capsys):
    line = refused(capsys, "train", option, "wrong", code=2)
    assert line.startswith(f"fastcnn train: error: argument {option}: invalid choice: 'wrong' (choose from ")


def test_a_wrong_command_is_one_line(capsys):
    assert refused(capsys, "trian", code=2).startswith("fastcnn: error: argument COMMAND: invalid choice: 'trian'")
    assert refused(capsys, code=2) == (
        "fastcnn: error: the following arguments are required: COMMAND (see fastcnn --help)"
    )


def test_a_model_that_does_not_take_the_images(tmp_path, capsys):
    line = refused(capsys, "train", "--model", "lenet5", "--output", tmp_path)
    assert line.startswith("fastcnn train: error: --model: expected one that takes images of 1x8x8, got lenet5: ")


def test_a_number_out_of_range(tmp_path, capsys):
    line = refused(capsys, "train", "--threads", 5000, "--output", tmp_path)
    assert line == "fastcnn train: error: num_threads: expected an int from 1 to 4096, got 5000"


@pytest.mark.parametrize("schedule", cli.SCHEDULES)
def test_a_run_of_one_update(schedule, tmp_path):
    options = ["--epochs", 1, "--batch-size", 5000, "--schedule", schedule, "--quiet"]
    assert run("train", *options, "--output", tmp_path) == 0


def test_a_missing_data_folder(tmp_path, capsys):
    line = refused(capsys, "train", "--data", "mnist", "--data-dir", tmp_path / "none", "--output", tmp_path)
    assert line == f"fastcnn train: error: data_dir: expected an existing folder, got '{tmp_path / 'none'}'"


def test_a_damaged_data_set(tmp_path, capsys):
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte").write_bytes(b"no images")
    line = refused(capsys, "train", "--data", "mnist", "--data-dir", tmp_path, "--output", tmp_path)
    assert line.startswith(f"fastcnn train: error: {tmp_path / 'train-images-idx3-ubyte'}: not an IDX file")


def test_an_output_folder_that_cannot_be(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = refused(capsys, "train", "--output", tmp_path / "file")
    assert line == f"fastcnn train: error: {tmp_path / 'file'}: File exists"


def test_without_safetensors(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert refused(capsys, "train", "--output", tmp_path) == (
        "fastcnn train: error: saving checkpoints needs safetensors, which is not installed: pip install "
        "'fastcnn[train]'"
    )


def test_without_matplotlib_there_is_no_curve(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("train", "--epochs", 1, "--no-progress", "--output", tmp_path) == 0
    assert "\nno curve: drawing the curve needs matplotlib, " in capsys.readouterr().out


def test_a_loss_that_is_not_finite_is_one_line(tmp_path, capsys):
    options = ["--lr", "1e38", "--optimizer", "sgd", "--schedule", "constant", "--epochs", 3, "--quiet"]
    line = refused(capsys, "train", *options, "--output", tmp_path)
    assert line.startswith("fastcnn train: error: loss: expected a finite value, got ")


# --- what the options do ----------------------------------------------------------------------------------------------


class Ran(Exception):
    """Ends a command once it has called `Trainer.fit`, with what it was called with."""


@pytest.fixture
def reached(monkeypatch, tmp_path):
    """A function that runs ``fastcnn train`` up to `Trainer.fit`, and returns trainer, loader, epochs and options."""

    def fit(self, train, epochs, **options):
        raise Ran(self, train, epochs, options)

    def reach(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(fastcnn.Trainer, "fit", fit)
            with pytest.raises(Ran) as caught:
                run("train", "--output", tmp_path, *arguments)
        return caught.value.args

    return reach


def first_updates(reached, *arguments, count=2):
    """The parameters after the first updates, as the command would make them."""
    trainer, train, _, _ = reached(*arguments)
    for (inputs, targets), _ in zip(train.epoch(0), range(count), strict=False):
        trainer.step(inputs, targets)
    return np.concatenate([parameter.data.ravel() for parameter in trainer.model.parameters()])


SGD = ("--optimizer", "sgd", "--schedule", "constant")


@pytest.mark.parametrize(
    ("base", "changed"),
    [
        ((), ("--batch-size", 33)),
        ((), ("--optimizer", "adamw")),
        ((), ("--optimizer", "sgd")),
        ((), ("--lr", 1e-4)),
        (SGD, ("--lr", 0.3)),
        (SGD, ("--momentum", 0.1)),
        ((), ("--weight-decay", 0.3)),
        (SGD, ("--weight-decay", 0.3)),
        (("--optimizer", "adamw"), ("--weight-decay", 0.3)),
        ((), ("--schedule", "constant")),
        ((), ("--augment",)),
        (("--augment",), ("--no-augment",)),
        ((), ("--seed", 1)),
        ((), ("--epochs", 1)),  # by the schedule
    ],
)
def test_an_option_changes_the_updates(base, changed, reached):
    assert not np.array_equal(first_updates(reached, *base), first_updates(reached, *base, *changed))
    np.testing.assert_array_equal(first_updates(reached, *base), first_updates(reached, *base))


@pytest.mark.parametrize("schedule", cli.SCHEDULES)
def test_the_rates_of_a_schedule(schedule, reached):
    trainer, train, epochs, _ = reached("--schedule", schedule, "--epochs", 6, "--lr", 0.01)
    total, rates = epochs * len(train), [trainer.optimizer.lr]
    for _ in range(total if trainer.schedule else 0):
        trainer.schedule.step()
        rates.append(trainer.optimizer.lr)
    highest, last, half = max(rates), rates[-1], rates[len(rates) // 2]
    assert highest == pytest.approx(0.01, rel=1e-3)
    assert trainer.schedule_every == "step"
    if schedule == "constant":
        assert set(rates) == {0.01}
    elif schedule == "step":
        assert [rates[0], half, rates[-2]] == pytest.approx([0.01, 0.001, 0.0001])
    else:
        assert last < 1e-3 < half < 0.01
        assert (rates[0] < 0.005) is (schedule in ("warmup-cosine", "onecycle"))


def test_what_is_trained_and_shown(reached):
    for name in ("digits_cnn", "resnet20", "vgg_small"):
        trainer, *_ = reached("--model", name)
        expected = getattr(fastcnn.models, name)(10, in_channels=1)
        assert [p.shape for p in trainer.model.parameters()] == [p.shape for p in expected.parameters()]
    _, train, epochs, options = reached("--epochs", 7, "--batch-size", 50, "--seed", 3)
    assert (epochs, train.batch_size, train.seed, train.shuffle) == (7, 50, 3, True)
    assert len(train.dataset) == 1442
    assert len(options["validation"]) == 355
    assert options["progress"] is True
    assert options["resume"] is None
    assert reached("--no-progress")[3]["progress"] is reached("--quiet")[3]["progress"] is False


def test_the_data_set_and_its_folder(reached, tmp_path, monkeypatch):
    asked = []

    def load(name, split, data_dir):
        asked.append((name, split, data_dir))
        return fastcnn.load_dataset("digits", split)

    monkeypatch.setattr(cli, "load_dataset", load)
    for name, recipe in cli.RECIPES.items():
        if recipe.model == "lenet5":
            continue  # it does not take these images
        reached("--data", name, "--data-dir", str(tmp_path))
        assert asked[-2:] == [(name, "train", str(tmp_path)), (name, "test", str(tmp_path))]


def test_the_threads_of_a_run(reached):
    most = fastcnn.get_num_threads()
    for number in (1, 2):
        reached("--threads", number)
        assert fastcnn.get_num_threads() == number
    fastcnn.set_num_threads(most)
    reached()
    assert fastcnn.get_num_threads() == most


def test_the_output_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("train", "--epochs", 1, "--batch-size", 400, "--quiet")
    assert run(*arguments, "--output", "a/b") == run(*arguments) == 0
    for folder in (tmp_path / "a" / "b", tmp_path):
        assert read_checkpoint(folder / "fastcnn-digits.safetensors")["state"]["epoch"] == 1


# --- resume ---------------------------------------------------------------------------------------------------------


def start(*arguments):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "fastcnn", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_interrupted_run_goes_on_exactly(tmp_path, capsys):
    options = ["--epochs", 8, "--augment", "--seed", 4]
    assert run("train", *options, "--quiet", "--output", tmp_path / "whole") == 0
    path = tmp_path / "parts" / "fastcnn-digits.safetensors"
    with start(*options, "--output", path.parent) as process:
        while not path.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    last = err.replace("\r", "\n").splitlines()[-1]
    match = re.fullmatch(
        rf"fastcnn train: interrupted (in epoch (\d+), after \d+ batches|after epoch \d+); "
        rf"go on with: fastcnn train --resume {re.escape(str(path))}",
        last,
    )
    assert match
    capsys.readouterr()
    assert run("train", "--resume", path, "--no-progress") == 0
    assert "test accuracy: " in capsys.readouterr().out
    whole = tmp_path / "whole" / "fastcnn-digits.safetensors"
    assert weights(path) == weights(whole)
    assert columns(path) == columns(whole)
    assert path.with_suffix(".png").exists()


@pytest.fixture
def finished(tmp_path, capsys):
    run("train", "--epochs", 1, "--quiet", "--output", tmp_path)
    capsys.readouterr()
    return tmp_path / "fastcnn-digits.safetensors"


def test_resuming_a_finished_run_shows_it_again(finished, capsys, monkeypatch):
    before = weights(finished)
    monkeypatch.chdir(finished.parent)
    assert run("train", "--resume", "--no-progress", "--epochs", 1) == 0
    assert re.search(r"\n +1 +\d", capsys.readouterr().out)
    assert weights(finished) == before


def test_resuming_into_another_folder(finished, tmp_path):
    assert run("train", "--resume", finished, "--quiet", "--output", tmp_path / "other") == 0
    assert (tmp_path / "other" / "fastcnn-digits.png").exists()


def test_resuming_with_another_option_is_refused(finished, capsys):
    assert refused(capsys, "train", "--resume", finished, "--lr", "0.5") == (
        f"fastcnn train: error: --lr: expected {cli.RECIPES['digits'].lr}, as the run in {finished} was started with, "
        "got 0.5"
    )


def test_resuming_from_nothing_and_from_something_else(tmp_path, capsys):
    from safetensors.numpy import save_file

    path = tmp_path / "fastcnn-digits.safetensors"
    assert refused(capsys, "train", "--resume", "--output", tmp_path) == (
        f"fastcnn train: error: {path}: No such file or directory"
    )
    save_file({"w": np.ones(2)}, path)
    assert refused(capsys, "train", "--resume", path).startswith(
        f"fastcnn train: error: {path}: expected a fastcnn checkpoint, got a safetensors file without its metadata"
    )
    path.write_bytes(b"nothing of the kind")
    assert refused(capsys, "train", "--resume", path).startswith(
        f"fastcnn train: error: {path}: expected a whole safetensors file, got a truncated or foreign one ("
    )


def test_resuming_a_run_of_another_program(tmp_path, capsys):
    from fastcnn import nn, optim
    from fastcnn.training import Trainer, TrainingState, save_checkpoint

    model = nn.Sequential(nn.Linear(2, 2))
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, Trainer(model, optim.SGD(model.parameters(), 0.1)), TrainingState())
    assert refused(capsys, "train", "--resume", path) == (
        f"fastcnn train: error: {path}: expected a checkpoint of fastcnn train, got one of another program"
    )


# --- the rest -------------------------------------------------------------------------------------------------------


def test_info(capsys):
    assert run("info") == 0
    found = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert found["fastcnn"] == fastcnn.__version__
    assert found["numpy"] == np.__version__
    assert found["threads"] == str(fastcnn.get_num_threads())
    assert {"python", "openmp", "instruction set"} <= found.keys()


def test_help_names_commands_options_and_recipes(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command, (_, _, summary) in cli.COMMANDS.items():
        assert f"{command:10}" in text
        assert summary in text
    with pytest.raises(SystemExit):
        run("train", "--help")
    text = capsys.readouterr().out
    for name in (*cli.RECIPES, *cli.MODELS, "--no-augment", "--resume [FILE]", "onecycle"):
        assert name in text
    assert max(map(len, text.splitlines())) <= max(100, int(os.environ.get("COLUMNS", "0")))


def test_version(capsys):
    with pytest.raises(SystemExit):
        run("--version")
    assert capsys.readouterr().out == f"fastcnn {fastcnn.__version__}\n"


def test_the_module_runs():
    command = [sys.executable, "-m", "fastcnn", "train", "--epochs", "x"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == (
        "fastcnn train: error: argument --epochs: expected a positive int, got 'x' (see fastcnn train --help)\n"
    )


def test_every_recipe_names_what_exists():
    for name, recipe in cli.RECIPES.items():
        assert recipe.model in cli.MODELS
        assert recipe.optimizer in cli.LEARNING_RATES
        assert recipe.schedule in cli.SCHEDULES
        assert cli._describe(name).startswith(recipe.model)
