"""fastcnn: train convolutional networks on CPUs, with compiled kernels under a thin layer API."""
