"""Types: the stubs of the compiled modules tell what is there, and a user's program passes the checkers."""

import ast
import importlib
import importlib.util
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastcnn

PACKAGE = Path(fastcnn.__file__).parent
PROGRAM = Path(__file__).parent / "typing" / "user_program.py"
COMPILED = sorted(path.stem for path in PACKAGE.joinpath("kernels").glob("*.pyx"))


def public(names):
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", COMPILED)
def test_stub_is_complete(name):
    """Functions, classes and values by name, and the names and order of a function's parameters."""
    module = importlib.import_module(f"fastcnn.kernels.{name}")
    stub = ast.parse(PACKAGE.joinpath("kernels", f"{name}.pyi").read_text())
    functions = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    classes = {node.name for node in stub.body if isinstance(node, ast.ClassDef)}
    values = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    own = {
        key: value
        for key, value in vars(module).items()
        if not inspect.ismodule(value) and getattr(value, "__module__", module.__name__) == module.__name__
    }
    assert public(functions) | classes | values == public(own)
    for key, node in functions.items():
        signature = inspect.signature(getattr(module, key))
        assert [argument.arg for argument in node.args.args] == list(signature.parameters), key
        assert node.returns is not None, key
        assert all(argument.annotation for argument in node.args.args), key


@pytest.mark.parametrize("name", fastcnn.functional.__all__)
def test_public_functions_are_typed_and_told(name):
    """Every function of `functional` has types, and a docstring with parameters, results, errors and an example."""
    function = getattr(fastcnn.functional, name)
    assert all(p.annotation is not p.empty for p in inspect.signature(function).parameters.values())
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    sections = inspect.getdoc(function).split("\n")
    for title in ("Parameters", "Raises", "Examples"):
        assert title in sections, title
    if inspect.signature(function).return_annotation != "None":
        assert "Returns" in sections
    for parameter in inspect.signature(function).parameters:
        assert any(parameter in line.split(" : ")[0].replace(",", " ").split() for line in sections), parameter


def test_marker_is_installed():
    assert (PACKAGE / "py.typed").exists()


def check(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout


needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")


@needs_mypy
@pytest.mark.slow
def test_user_program_passes_mypy(tmp_path):
    check(sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(PROGRAM))


@needs_mypy
@pytest.mark.skipif("site-packages" in PACKAGE.parts, reason="mypy checks no package where it is installed")
@pytest.mark.slow
def test_functions_and_stubs_pass_mypy(tmp_path):
    folders = (str(PACKAGE / "functional"), str(PACKAGE / "kernels"), str(PACKAGE / "config.py"))
    check(sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), "--follow-imports", "silent", *folders)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
@pytest.mark.skipif(shutil.which("node") is None, reason="pyright needs node")
def test_user_program_passes_pyright():
    check(sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(PROGRAM))


def test_user_program_runs(tmp_path, capsys):
    pytest.importorskip("safetensors")
    spec = importlib.util.spec_from_file_location("user_program", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.main(tmp_path)
    assert fastcnn.__version__ in capsys.readouterr().out
