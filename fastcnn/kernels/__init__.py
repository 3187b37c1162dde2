"""The compiled kernels: pointers, sizes and strides, no layers. `fastcnn.functional` is the checked way in."""
