"""The place of kernels in Triton, under the file names of `selflabel.kernels.cpu`. There are none yet."""
