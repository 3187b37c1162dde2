# Nothing that Python sees: conv_pool.pxd declares what functional calls.
