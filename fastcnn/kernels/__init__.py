"""The compiled kernels: pointers, sizes and strides, no layers. `fastcnn.functional` is the checked way in."""

import os

# GNU OpenMP reads its settings when it is loaded, with the first kernel. Its threads then wait for each other by
# spinning for milliseconds, which is fine on idle cores, but on busy ones makes small networks ten times slower or
# worse. This many rounds (a few hundred microseconds) kept the speed on idle cores where it was measured.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "20000"
