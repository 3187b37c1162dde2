# Nothing that Python sees: edges.pxd declares what conv.pyx calls.
