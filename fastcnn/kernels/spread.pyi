# Nothing that Python sees: spread.pxd declares what conv.pyx calls.
