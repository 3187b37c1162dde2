# Nothing that Python sees: winograd.pxd declares what conv.pyx calls.
