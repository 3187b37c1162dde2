# Nothing that Python sees: point.pxd declares what conv.pyx calls.
