"""Kernels in Triton, under the file names of `selflabel.kernels.cpu` where there is a counterpart."""
