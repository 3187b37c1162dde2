from Cython.Build import cythonize
from setuptools import Extension, setup

import fastcnn

extension = Extension(
    "convpool_cython",
    ["convpool_cython.pyx"],
    include_dirs=[fastcnn.get_include()],
    extra_compile_args=["-O2", "-fopenmp"],
    extra_link_args=["-fopenmp"],
)
setup(ext_modules=cythonize([extension], compiler_directives={"boundscheck": False, "wraparound": False}))
