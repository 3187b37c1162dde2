"""The house keeps its shape: imports point down, and the documents' examples run."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastcnn

PACKAGE = Path(fastcnn.__file__).parent
README = Path(__file__).parents[1] / "README.md"
# From the top down; a module may import from its own row and the rows below.
ROWS = [
    "cli", "benchmark", "training", "models", "nn", "optim", "torch", "config", "functional", "random", "kernels",
]  # fmt: skip
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fastcnn.__path__, "fastcnn.")
    if module.name != "fastcnn.__main__" and not module.name.startswith("fastcnn.kernels.")
)


def statements(tree):
    """Every node but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from statements(node)


def imports(path):
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module == "fastcnn":
                yield from (f"fastcnn.{alias.name}" for alias in node.names)
            else:
                yield node.module


def row(name):
    part = name.split(".")[1]
    return ROWS.index(part) if part in ROWS else None


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = ".".join(["fastcnn", *path.relative_to(PACKAGE).with_suffix("").parts])
    for name in imports(path):
        if not name.startswith("fastcnn.") or row(own) is None or row(name) is None:
            continue
        assert row(name) >= row(own), f"{own} imports {name}, which stands above it"
        if name.startswith("fastcnn.kernels"):
            assert own.split(".")[1] in ("functional", "config", "kernels"), f"{own} passes by functional"


def test_reference_imports_numpy_alone():
    modules = {name.split(".")[0] for name in imports(PACKAGE / "reference.py")}
    assert modules <= {"__future__", "math", "collections", "numpy"}


def test_importing_fastcnn_needs_numpy_alone():
    code = "import sys, fastcnn; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"tqdm", "safetensors", "pooch", "matplotlib", "torch", "scipy", "sklearn"}


def test_the_same_functions_in_reference_and_functional():
    from fastcnn import functional, reference

    public = {name for name, value in vars(reference).items() if inspect.isfunction(value) and not name.startswith("_")}
    public = {name for name in public if getattr(reference, name).__module__ == "fastcnn.reference"} - {"output_size"}
    assert public <= set(functional.__all__)
    assert set(functional.__all__) - public == {"image_batch"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    if name == "fastcnn.torch":
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    state, options = fastcnn.random.get_state(), np.get_printoptions()
    result = doctest.testmod(importlib.import_module(name))
    fastcnn.random.set_state(state)
    np.set_printoptions(**options)
    assert result.failed == 0


def run_readme(chosen):
    """Run the README's Python examples that are chosen by their text."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    blocks = [block for block in blocks if chosen(block)]
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    return len(blocks)


in_source = pytest.mark.skipif(not README.exists(), reason="the README is not part of an installed package")


@in_source
def test_examples_in_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_readme(lambda block: "import torch" not in block) == 2
    assert "'accuracy'" in capsys.readouterr().out


@in_source
def test_example_for_torch_in_the_readme(capsys):
    pytest.importorskip("torch")
    assert run_readme(lambda block: "import torch" in block) == 1
    assert "3 layers by fastcnn" in capsys.readouterr().out
