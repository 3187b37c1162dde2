"""The doors for other projects: Cython and C builds against the installed wheel, and calls by address."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastcnn
from fastcnn import functional as F
from fastcnn.kernels import table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "doors.md"
HEADER = Path(fastcnn.get_include(), "fastcnn", "kernels.h").read_text()
CC = shutil.which(os.environ.get("CC", "cc"))
compiler = pytest.mark.skipif(CC is None, reason="no C compiler")


def block(language):
    """The only block of a language in the README."""
    if not README.exists():
        pytest.skip("the README is not part of an installed package")
    (found,) = re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.S)
    return found


# --- builds against the installed wheel, away from the source ---------------------------------------------------------


class Elsewhere:
    """A virtual environment in a folder of its own, with fastcnn from a wheel and nothing of the source near."""

    def __init__(self, folder):
        self.folder = folder
        self.run([sys.executable, "-m", "venv", "venv"])
        self.python = str(next(folder.glob("venv/bin/python*"), None) or folder / "venv/Scripts/python.exe")

    def run(self, command, folder=None):
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CFLAGS")}
        done = subprocess.run(
            command, cwd=folder or self.folder, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def pip(self, *arguments):
        return self.run([self.python, "-m", "pip", "--disable-pip-version-check", *arguments])

    def install(self, project):
        """Copy a project here, and build and install it with what the environment has."""
        copy = self.folder / project.name
        shutil.copytree(project, copy)
        self.pip("install", "--no-build-isolation", "--no-deps", str(copy))
        shutil.rmtree(copy)

    def call(self, code, **arrays):
        """Run code that makes `result` from arrays, and return it."""
        np.savez(self.folder / "arrays.npz", **arrays)
        code = (
            "import numpy as np\nglobals().update(np.load('arrays.npz'))\n" + textwrap.dedent(code) +
            "\nimport fastcnn\nassert 'site-packages' in fastcnn.__file__\nnp.save('result.npy', result)\n"
        )  # fmt: skip
        self.run([self.python, "-W", "error", "-c", code])
        return np.load(self.folder / "result.npy")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    wheel = os.environ.get("FASTCNN_WHEEL")
    if not wheel and not (ROOT / "setup.py").exists():
        pytest.skip("neither the source to build a wheel from nor FASTCNN_WHEEL")
    elsewhere = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    try:
        elsewhere.pip("install", "--quiet", "setuptools>=77", "cython>=3.1", "numpy>=2")
    except AssertionError as error:
        pytest.skip(f"pip cannot install what a build needs: {error}")
    if not wheel:
        source = elsewhere.folder / "source"
        ignore = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__")
        shutil.copytree(ROOT, source, ignore=ignore)
        elsewhere.pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", "wheel", str(source))
        shutil.rmtree(source)
        (wheel,) = (elsewhere.folder / "wheel").glob("*.whl")
    elsewhere.pip("install", "--no-deps", str(wheel))
    return elsewhere


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((6, 3, 17, 22), np.float32)


@pytest.fixture
def weight():
    return np.random.default_rng(1).standard_normal((8, 3, 3, 5), np.float32)


@pytest.mark.slow
@compiler
def test_cython_project(elsewhere, images, weight):
    elsewhere.install(ROOT / "examples" / "cython_project")
    code = """
        from convpool_cython import conv_pool
        result = conv_pool(images, weight, threads=3)
        assert np.array_equal(result, conv_pool(images, weight, threads=1))
        for wrong in (images[:, :2], images[:, :, :3], images[..., :3]):
            try:
                conv_pool(np.ascontiguousarray(wrong), weight, threads=1)
            except ValueError as error:
                assert "expected" in str(error)
            else:
                raise AssertionError(wrong.shape)
    """
    got = elsewhere.call(code, images=images, weight=weight)
    assert_array_equal(got, F.max_pool2d(F.conv2d(images, weight), 2))


@pytest.mark.slow
@compiler
def test_c_project(elsewhere, images, weight):
    elsewhere.install(ROOT / "examples" / "c_project")
    expected = F.max_pool2d(F.conv2d(images, weight), 2)
    code = """
        import convpool_c
        result = np.full((6, 8, 7, 9), 7, np.float32)
        for wrong in (images[:, :2], images[..., :4], images[:0], images.astype(np.float64), images[0], None):
            try:
                convpool_c.conv_pool(wrong, weight, result)
            except (TypeError, ValueError):
                assert (result == 7).all()
            else:
                raise AssertionError(wrong)
        convpool_c.conv_pool(images, weight, result)
    """
    assert_array_equal(elsewhere.call(code, images=images, weight=weight), expected)


# Both float types and every kind of tag, from one module of another project.
TYPES = """
# cython: boundscheck=False, language_level=3
from cython cimport floating
from libc.stdint cimport int32_t, int64_t, uint8_t
from fastcnn.kernels.conv cimport (
    BACKWARD_DATA, BACKWARD_WEIGHT, FORWARD, conv_backward_data_ptr, conv_backward_weight_ptr, conv_forward_ptr,
    conv_norm_ptr, conv_scratch, pass_scratch)
from fastcnn.kernels.geometry cimport Window, check_adaptive, check_conv, check_im2col, check_pool
from fastcnn.kernels.im2col cimport col2im_ptr, im2col_ptr
from fastcnn.kernels.pooling cimport (
    adaptive_avg_pool_backward_ptr, adaptive_avg_pool_ptr, avg_pool_backward_ptr, avg_pool_ptr, max_pool_ptr,
    max_pool_relu_ptr, max_pool_taps_backward_ptr, scatter_ptr, take_ptr, wrong_relu_taps_ptr, wrong_taps_ptr)

ctypedef fused tag:
    uint8_t
    int32_t


def all_of(floating[::1] x, floating[::1] y, floating[::1] weight, floating[::1] columns, tag[::1] taps,
           int64_t[::1] indices, Window g, char[::1] scratch):
    cdef Py_ssize_t wrong = 0
    with nogil:
        wrong += check_conv(&g, 2, 1) != NULL
        wrong += check_pool(&g, 1) != NULL
        wrong += check_im2col(&g) != NULL
        wrong += check_adaptive(&g) != NULL
        wrong += pass_scratch(FORWARD, &g, 2, 1, 1, sizeof(floating)) > scratch.shape[0]
        wrong += conv_scratch(FORWARD, &g, 2, 1, 1, sizeof(floating)) > scratch.shape[0]
        wrong += conv_scratch(BACKWARD_DATA, &g, 2, 1, 1, sizeof(floating)) > scratch.shape[0]
        wrong += conv_scratch(BACKWARD_WEIGHT, &g, 2, 1, 1, sizeof(floating)) > scratch.shape[0]
        conv_forward_ptr(&x[0], &weight[0], <floating*>NULL, &y[0], &g, 2, 1, &scratch[0], 1)
        conv_norm_ptr(&x[0], &weight[0], <floating*>NULL, &weight[0], &weight[0], &weight[0], <floating*>NULL, True,
                      &y[0], &g, 2, 1, &scratch[0], 1)
        conv_backward_data_ptr(&y[0], &weight[0], &x[0], &g, 2, 1, &scratch[0], 1)
        conv_backward_weight_ptr(&y[0], &x[0], &weight[0], <floating*>NULL, &g, 2, 1, &scratch[0], 1)
        im2col_ptr(&x[0], &columns[0], &g, 1)
        col2im_ptr(&columns[0], &x[0], &g, 1)
        max_pool_ptr(&x[0], &y[0], &indices[0], &g, 1)
        wrong += scatter_ptr(&y[0], &indices[0], &x[0], &g, False, 1)
        wrong += take_ptr(&x[0], &indices[0], &y[0], &g, 1)
        max_pool_ptr(&x[0], &y[0], &taps[0], &g, 1)
        wrong += wrong_taps_ptr(&taps[0], &g, 1)
        max_pool_relu_ptr(&x[0], &y[0], &taps[0], &g, 1)
        wrong += wrong_relu_taps_ptr(&taps[0], &g, 1)
        max_pool_taps_backward_ptr(&y[0], &taps[0], &x[0], &g, 1)
        avg_pool_ptr(&x[0], &y[0], &g, True, 0, 1)
        avg_pool_backward_ptr(&y[0], &x[0], &g, True, 0, 1)
        adaptive_avg_pool_ptr(&x[0], &y[0], &g, 1)
        adaptive_avg_pool_backward_ptr(&y[0], &x[0], &g, 1)
    return wrong
"""
SETUP = """
import fastcnn
from Cython.Build import cythonize
from setuptools import Extension, setup
setup(name="{name}", py_modules=[],
      ext_modules=cythonize([Extension("{name}", ["{name}.pyx"], include_dirs=[fastcnn.get_include()])]))
"""


def cython_module(elsewhere, name, source):
    folder = elsewhere.folder / "made" / name
    folder.mkdir(parents=True)
    (folder / f"{name}.pyx").write_text(source)
    (folder / "setup.py").write_text(SETUP.format(name=name))
    elsewhere.run([elsewhere.python, "setup.py", "-q", "build_ext", "--build-lib", str(elsewhere.folder)], folder)


@pytest.mark.slow
@compiler
def test_every_function_in_both_types(elsewhere):
    """All that the .pxd files of conv, pooling and im2col declare, each in float and double."""
    declared = set()
    for name in ("conv", "im2col", "pooling"):
        declared |= set(
            re.findall(r"(\w+)\(", Path(fastcnn.__file__).with_name("kernels").joinpath(f"{name}.pxd").read_text())
        )
    assert declared <= set(re.findall(r"(\w+)\(", TYPES))
    cython_module(elsewhere, "types_of_fastcnn", TYPES)
    code = """
        from types_of_fastcnn import all_of
        g = dict(n=2, c=2, h=6, w=6, oh=3, ow=3, kh=2, kw=2, sh=2, sw=2, ph=0, pw=0, dh=1, dw=1, channels_last=0,
                 algorithm=0)
        result = []
        for dtype in np.float32, np.float64:
            for tag in np.uint8, np.int32:
                x, y, columns = (np.arange(size, dtype=dtype) for size in (144, 36, 2 * 8 * 9))
                weight, indices = np.ones(16, dtype), np.empty(36, np.int64)
                assert all_of(x, y, weight, columns, np.empty(36, tag), indices, g, np.empty(1 << 16, np.int8)) == 0
                result.append(x.astype(np.float64))
        result = np.stack(result)
    """
    result = elsewhere.call(code)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, np.broadcast_to(result[0], result.shape), rtol=1e-5)


@pytest.mark.slow
@compiler
def test_cython_in_the_readme(elsewhere, images):
    cython_module(elsewhere, "readme", "# cython: language_level=3\n" + block("cython"))
    code = "import readme\nresult = np.empty((6, 27, 300), np.float32)\nreadme.columns(images, result)"
    assert_array_equal(elsewhere.call(code, images=images), F.im2col(images, 3))


# --- C and C++ --------------------------------------------------------------------------------------------------------


def capsule_pointer():
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return get(table.capsule, b"fastcnn.kernels.table.capsule")


def compile_c(source, output, *flags):
    folders = [f"-I{fastcnn.get_include()}", f"-I{sysconfig.get_path('include')}"]
    command = [*flags, *folders, "-Wall", "-Wextra", "-Werror", str(source), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@compiler
@pytest.mark.skipif(os.name != "posix", reason="the compiler's flags are those of a POSIX system")
def test_c_in_the_readme(tmp_path, images):
    source, library = tmp_path / "readme.c", tmp_path / "readme.so"
    source.write_text(block("c"))
    compile_c(source, library, CC, "-shared", "-fPIC")
    output = np.empty((18, 8, 11), np.float32)
    halve = ctypes.CDLL(str(library)).halve
    halve.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_ssize_t] * 3
    halve(capsule_pointer(), images.ctypes.data, output.ctypes.data, 18, 17, 22)
    assert_array_equal(output.reshape(6, 3, 8, 11), F.max_pool2d(images, 2))


@pytest.mark.skipif(shutil.which("c++") is None or os.name != "posix", reason="no C++ compiler")
@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_header_in_cpp(tmp_path, standard):
    source = tmp_path / "use.cpp"
    source.write_text(
        "#include <Python.h>\n#include <fastcnn/kernels.h>\n"
        "extern \"C\" ptrdiff_t use() { auto *table = fastcnn_import();\n"
        "  fastcnn_window g = {}; return table->conv_scratch(FASTCNN_FORWARD, &g, 1, 1, 1, 4); }\n"
    )  # fmt: skip
    compile_c(source, tmp_path / "use.so", "c++", f"-std={standard}", "-shared", "-fPIC")


@compiler
@pytest.mark.skipif(os.name != "posix", reason="the compiler's flags are those of a POSIX system")
@pytest.mark.parametrize("broken", ["", "-DFASTCNN_ABI=99"])
def test_import_from_c(tmp_path, broken):
    """The table's version is compared with the header's."""
    source = tmp_path / "use.c"
    source.write_text(
        "#include <Python.h>\n#include <fastcnn/kernels.h>\n"
        "const void *use(void);\nconst void *use(void) { return fastcnn_import(); }\n"
    )
    header = HEADER.replace("#define FASTCNN_ABI 2", "") if broken else HEADER
    assert (header != HEADER) == bool(broken)
    (tmp_path / "fastcnn").mkdir()
    (tmp_path / "fastcnn" / "kernels.h").write_text(header)
    shutil.copy(Path(fastcnn.get_include(), "fastcnn", "geometry.h"), tmp_path / "fastcnn")
    compile_c(source, tmp_path / "use.so", CC, "-shared", "-fPIC", f"-I{tmp_path}", *broken.split())
    use = ctypes.PyDLL(str(tmp_path / "use.so")).use
    use.restype = ctypes.c_void_p
    if broken:
        with pytest.raises(ImportError, match="another version"):
            use()
    else:
        assert use() == capsule_pointer()


# --- calls by address -------------------------------------------------------------------------------------------------


SIZES = ("n", "c", "h", "w", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw")


class Window(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ssize_t) for name in SIZES] + [
        ("channels_last", ctypes.c_int),
        ("algorithm", ctypes.c_int),
    ]


def call(name, *arguments, result=None):
    """Call a function of the table: arrays as pointers, a window by reference, whole numbers as ptrdiff_t or int.

    On the platforms of the project an int argument may be passed as a wider register.
    """
    types = {
        np.ndarray: ctypes.c_void_p,
        Window: ctypes.POINTER(Window),
        int: ctypes.c_ssize_t,
        type(None): ctypes.c_void_p,
    }
    function = ctypes.CFUNCTYPE(result, *(types[type(a)] for a in arguments))(table.functions()[name])
    values = [
        a.ctypes.data if isinstance(a, np.ndarray) else ctypes.byref(a) if isinstance(a, Window) else a
        for a in arguments
    ]
    return function(*values)


def test_names_are_the_headers():
    named = re.findall(r"\(\*(\w+?)(?:_##type)?\)", HEADER)
    plain = {"max_threads", "conv_scratch", "check_conv", "check_pool", "check_im2col", "check_adaptive"}
    expected = plain | {f"{name}_{kind}" for name in set(named) - plain for kind in ("f32", "f64")}
    assert set(table.functions()) == expected
    assert len(set(table.functions().values())) == len(expected)


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "f32"), (np.float64, "f64")])
def test_by_address(dtype, kind, rng):
    x, w, b = (rng.standard_normal(size).astype(dtype) for size in ((2, 4, 9, 7), (6, 2, 3, 2), 6))
    g = Window(n=2, c=4, h=9, w=7, oh=5, ow=4, kh=3, kw=2, sh=2, sw=2, ph=1, pw=1, dh=1, dw=1)
    options = {"stride": 2, "padding": 1, "groups": 2}
    y, dx, dw, db = (np.empty(size, dtype) for size in ((2, 6, 5, 4), x.shape, w.shape, 6))
    count = call("max_threads", result=ctypes.c_int)
    assert count == fastcnn.get_num_threads()

    def scratch(which):
        size = call("conv_scratch", which, g, 6, 2, count, x.itemsize, result=ctypes.c_ssize_t)
        return np.empty(size, np.uint8)

    call(f"conv_forward_{kind}", x, w, b, y, g, 6, 2, scratch(0), count)
    assert_array_equal(y, F.conv2d(x, w, b, **options))
    dy = rng.standard_normal(y.shape).astype(dtype)
    call(f"conv_backward_data_{kind}", dy, w, dx, g, 6, 2, scratch(1), count)
    call(f"conv_backward_weight_{kind}", dy, x, dw, db, g, 6, 2, scratch(2), count)
    for got, expected in zip((dx, dw, db), F.conv2d_backward(dy, x, w, **options), strict=True):
        assert_array_equal(got, expected)

    columns = np.empty((2, 24, 20), dtype)
    call(f"im2col_{kind}", x, columns, g, count)
    assert_array_equal(columns, F.im2col(x, (3, 2), padding=1, stride=2))
    call(f"col2im_{kind}", columns, dx, g, count)
    assert_array_equal(dx, F.col2im(columns, (9, 7), (3, 2), padding=1, stride=2))

    pool = {"kernel_size": (3, 2), "stride": 2, "padding": 1}
    y = np.empty((2, 4, 5, 4), dtype)
    dy = rng.standard_normal(y.shape).astype(dtype)
    expected, indices = F.max_pool2d(x, **pool, return_indices=True)
    grad = F.max_pool2d_backward(dy, indices, x.shape)
    for size, tag in ((0, None), (1, np.uint8), (4, np.int32), (8, np.int64)):
        tags = None if tag is None else np.empty(y.shape, tag)
        call(f"max_pool_{kind}", x, y, tags, size, g, count)
        assert_array_equal(y, expected)
        dx[...] = 9
        if size in (1, 4):
            call(f"max_pool_taps_backward_{kind}", dy, tags, size, dx, g, count)
        if size == 8:
            assert call(f"max_pool_backward_{kind}", dy, tags, dx, g, count, result=ctypes.c_ssize_t) == 0
        if size:
            np.testing.assert_allclose(dx, grad, rtol=1e-6)
    tags[0, 0, 0, 0] = 63
    assert call(f"max_pool_backward_{kind}", dy, tags, dx, g, count, result=ctypes.c_ssize_t) == 1

    for include, override in ((1, 0), (0, 0), (1, 5)):
        call(f"avg_pool_{kind}", x, y, g, include, override, count)
        rule = {"count_include_pad": bool(include), "divisor_override": override or None}
        assert_array_equal(y, F.avg_pool2d(x, **pool, **rule))
        call(f"avg_pool_backward_{kind}", dy, dx, g, include, override, count)
        assert_array_equal(dx, F.avg_pool2d_backward(dy, x.shape, **pool, **rule))
    call(f"adaptive_avg_pool_{kind}", x, y, g, count)
    assert_array_equal(y, F.adaptive_avg_pool2d(x, (5, 4)))
    call(f"adaptive_avg_pool_backward_{kind}", dy, dx, g, count)
    assert_array_equal(dx, F.adaptive_avg_pool2d_backward(dy, x.shape))


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_tags_of_no_bytes_are_left_alone(kind):
    """As the header says; they may be any pointer."""
    x = np.arange(16, dtype=f"f{int(kind[1:]) // 8}")
    y, tags = np.empty(4, x.dtype), np.full(64, 7, np.uint8)
    g = Window(n=1, c=1, h=4, w=4, oh=2, ow=2, kh=2, kw=2, sh=2, sw=2, ph=0, pw=0, dh=1, dw=1)
    call(f"max_pool_{kind}", x, y, tags, 0, g, 1)
    assert_array_equal(y, [5, 7, 13, 15])
    assert (tags == 7).all()


@pytest.mark.skipif(not PAGE.exists(), reason="the documents are not part of an installed package")
def test_examples_of_the_page(capsys):
    (found,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    exec(compile(found, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "[[ 5.  7.]\n [13. 15.]]\n"
