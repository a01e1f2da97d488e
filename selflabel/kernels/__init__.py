"""Inner loops on plain arrays, and what they run on: threads, memory, and the choice of a backend.

- `backend`: which kernels a device and a dtype get.
- `threads`, `memory`: ranges of pixels on threads; memory that is kept for the next use.
- `cpu/`: loops compiled by Numba (the optional extra `fast`). `gpu/`: the place of loops in Triton.

Kernels know nothing of the rest of the library. Nothing needs them: whatever they compute has a path in torch, which
is the reference in the tests and what runs on other devices.
"""
