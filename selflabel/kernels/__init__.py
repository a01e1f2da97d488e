"""Inner loops on plain arrays, and what they run on: threads, memory, and the choice of a backend.

- `backend`: which kernels a device and a dtype get.
- `threads`, `memory`: work on threads; working memory that is kept for the next use.
- `malloc`: a program's choice to keep the memory that it frees.
- `processors`: how many there are for this process, and a program's choice to leave them to others while it waits.
- `cpu/`: loops compiled by Numba (the optional extra `fast`). `gpu/`: the place of loops in Triton.

Kernels know nothing of the rest of the library, and are optional: all that they compute has a path in torch, which is
the reference in the tests and runs on other devices.
"""
