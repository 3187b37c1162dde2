# Nothing that Python sees: planar.pxd declares what conv.pyx calls.
