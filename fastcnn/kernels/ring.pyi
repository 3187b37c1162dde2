# Nothing that Python sees: ring.pxd declares what conv.pyx calls.
