"""Build of the compiled kernels. Everything else about the project is in pyproject.toml.

Environment:
    FASTCNN_OPENMP=auto|0|1   use OpenMP if the compiler has it (default) | never | fail without it
    FASTCNN_DEBUG=1           bounds checks, no optimisation, debug symbols
    FASTCNN_SANITIZE=address,undefined
                              with the C compiler's sanitizers of these names (CONTRIBUTING.md says how to run it)
    FASTCNN_AMX_MODEL=1       for tests, with the path amx-model: the matrix unit's code over a model of the unit
    CFLAGS                    added to the compiler's arguments as usual (CI adds -Wall -Werror)
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# One row a compiled module of fastcnn.kernels: its name, then the C files that it links besides its own.
EXTENSIONS = {
    "threads": [],
    "memory": [],
    "isa": ["micro/generic.c", "micro/avx2.c", "micro/avx512.c", "micro/amx.c"],
    "im2col": [],
    "pooling": ["micro/pool.c"],
    "winograd": ["micro/guard.c"],
    "planar": [],
    "ring": [],
    "point": [],
    "spread": [],
    "winners": [],
    "conv_pool": [],
    "norm_conv": [],
    "conv": [],
    "edges": [],
    "matrix": [],
    "linear": [],
    "augment": [],
    "optim": ["micro/optim.c"],
    "loss": [],
    "activation": [],
    "norm": ["micro/norm.c"],
    "table": [],
}

DEBUG = os.environ.get("FASTCNN_DEBUG", "0") == "1"
SANITIZE = os.environ.get("FASTCNN_SANITIZE", "")
MODEL = [("FASTCNN_AMX_MODEL", "1")] if os.environ.get("FASTCNN_AMX_MODEL", "0") == "1" else []
if MODEL:
    EXTENSIONS["isa"].append("micro/amx_model.c")
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
    "freethreading_compatible": True,
    "embedsignature": True,
    "embedsignature.format": "python",
}
# Portable code: the instruction sets above the baseline are chosen at import (fastcnn/kernels/micro), never here.
# The -fno flags give up the C library's errno and the floating-point traps, which nothing reads; values stay IEEE's.
UNIX_FLAGS = ["-O0", "-g"] if DEBUG else ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math"]
if SANITIZE:
    UNIX_FLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-fno-wrapv", "-O1", "-g1"]
OPENMP_PROBE = """
#include <omp.h>
int main(void) { int n = 0;
#pragma omp parallel for reduction(+:n)
for (int i = 0; i < 8; i++) n += omp_get_num_threads() > 0;
return n != 8; }
"""


class BuildKernels(build_ext):
    """build_ext that adds the compiler's OpenMP flags when a probe compiles and links with them."""

    def initialize_options(self):
        super().initialize_options()
        self.parallel = os.cpu_count()

    def build_extensions(self):
        self.parallel = self.parallel or os.cpu_count()
        msvc = self.compiler.compiler_type == "msvc"
        if msvc:
            self.use_clang()
        flags = ["/O2"] if msvc else UNIX_FLAGS
        compile_flags, link_flags = self.openmp_flags(msvc)
        shared = self.compiler.compile(
            ["fastcnn/kernels/micro/serial.c"], output_dir=self.build_temp, extra_postargs=[*flags, *compile_flags]
        )
        for extension in self.extensions:
            extension.extra_compile_args = [*flags, *compile_flags]
            extension.extra_link_args = [*link_flags, *([f"-fsanitize={SANITIZE}"] if SANITIZE else [])]
            extension.extra_objects = shared
        super().build_extensions()

    def use_clang(self):
        """Compile with clang-cl: micro/ is written with the vector types of GCC and Clang, which MSVC lacks."""
        clang = shutil.which("clang-cl")
        if clang is None:
            raise SystemExit("fastcnn: building on Windows needs clang-cl (of LLVM or Visual Studio) in PATH")
        self.compiler.initialize()
        self.compiler.cc = clang
        self.compiler.add_library_dir(str(Path(clang).parents[1] / "lib"))  # where LLVM has its OpenMP

    def openmp_flags(self, msvc):
        wanted = os.environ.get("FASTCNN_OPENMP", "auto")
        if wanted not in ("auto", "0", "1"):
            raise SystemExit(f"FASTCNN_OPENMP: expected auto, 0 or 1, got {wanted!r}")
        if wanted == "0":
            return [], []
        if msvc:
            candidates = [(["/openmp"], [])]
        elif sys.platform == "darwin":
            candidates = [(["-Xpreprocessor", "-fopenmp"], ["-lomp"]), (["-fopenmp"], ["-fopenmp"])]
        else:
            candidates = [(["-fopenmp"], ["-fopenmp"])]
        for compile_flags, link_flags in candidates:
            if self.probe(compile_flags, link_flags):
                return compile_flags, link_flags
        if wanted == "1":
            raise SystemExit("FASTCNN_OPENMP=1, but the C compiler neither compiles nor links an OpenMP program")
        print("fastcnn: no OpenMP found, kernels will run on one thread", file=sys.stderr)
        return [], []

    def probe(self, compile_flags, link_flags):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(OPENMP_PROBE)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=compile_flags)
                self.compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=link_flags)
            except Exception as error:  # each compiler class raises its own
                print(f"fastcnn: OpenMP probe: {error}", file=sys.stderr)
                return False
        return True


def extensions():
    headers = [str(path) for path in Path("fastcnn").rglob("*.h")]
    modules = {f"fastcnn.kernels.{name}": [f"fastcnn/kernels/{source}" for source in sources]
               for name, sources in EXTENSIONS.items()}  # fmt: skip
    modules["fastcnn.functional._calls"] = []  # takes arrays apart: the one that needs NumPy's headers
    return [
        Extension(
            name,
            [f"{name.replace('.', '/')}.pyx", *sources],
            include_dirs=["fastcnn/include", "fastcnn/kernels", numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), *MODEL],
            depends=headers,
        )
        for name, sources in modules.items()
    ]


if __name__ == "__main__":  # Cython's processes may import this file
    setup(
        ext_modules=cythonize(
            extensions(),
            nthreads=os.cpu_count(),
            compiler_directives=DIRECTIVES,
            emit_linenums=DEBUG,
            build_dir="build/debug" if DEBUG else None,  # apart, as Cython does not see that the directives differ
        ),
        cmdclass={"build_ext": BuildKernels},
    )
