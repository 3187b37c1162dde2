from setuptools import Extension, setup

import fastcnn

setup(ext_modules=[Extension("convpool_c", ["convpool_c.c"], include_dirs=[fastcnn.get_include()])])
