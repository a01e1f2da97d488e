"""The one place that decides which kernels a device and a dtype get.

A caller asks `backend` for a routine and imports its kernels only if there are some, so that Numba is loaded only then:

    if backend(Routine.LATTICE, features.device, features.dtype) is Backend.CPU:
        from selflabel.affinity.filters.lattice_cpu import CompiledLattice

Routines without kernels run in torch, which is also the reference of the tests. A test switches all kernels off by one
line, ``monkeypatch.setattr("selflabel.kernels.backend.has_numba", lambda: False)``, or `has_triton` in its place.
"""

import enum
from functools import cache
from importlib.util import find_spec

import torch


class Backend(enum.Enum):
    """Who runs the inner loops."""

    TORCH = "torch"
    CPU = "cpu"
    """Numba (`selflabel.kernels.cpu`)."""
    GPU = "gpu"
    """Triton (`selflabel.kernels.gpu`)."""


class Routine(enum.Enum):
    """A routine that has kernels: the name of a file in `selflabel.kernels.cpu`, `selflabel.kernels.gpu` or both."""

    LAYOUT = "layout"
    LATTICE = "lattice"
    SEPARABLE = "separable"
    EXACT = "exact"
    MEAN_FIELD = "mean_field"
    DESCENT = "descent"
    FRANK_WOLFE = "frank_wolfe"
    PRIMAL_DUAL = "primal_dual"
    ELIMINATION = "elimination"
    GATED = "gated"
    STENCIL = "stencil"
    MULTIGRID = "multigrid"


CPU_DTYPES = {
    Routine.LAYOUT: (torch.float32, torch.float64),
    Routine.LATTICE: (torch.float32, torch.float64),
    Routine.MEAN_FIELD: (torch.float32,),
    Routine.DESCENT: (torch.float32,),
    Routine.FRANK_WOLFE: (torch.float32, torch.float64),
    Routine.PRIMAL_DUAL: (torch.float32, torch.float64),
    Routine.ELIMINATION: (torch.float64,),
}
"""The dtypes that the kernels of each routine take on a CPU."""

GPU_DTYPES: dict[Routine, tuple[torch.dtype, ...]] = {
    Routine.DESCENT: (torch.float32,),
    Routine.GATED: (torch.float32,),
    Routine.STENCIL: (torch.float32,),
    Routine.LATTICE: (torch.float32,),
    Routine.SEPARABLE: (torch.float32,),
    Routine.EXACT: (torch.float32,),
    Routine.MEAN_FIELD: (torch.float32,),
    Routine.MULTIGRID: (torch.float32,),
}
"""The same on a GPU."""


def backend(routine: Routine, device: torch.device, dtype: torch.dtype) -> Backend:
    """The kernels of the routine for this device and dtype; `Backend.TORCH` if there are none."""
    if device.type == "cpu" and dtype in CPU_DTYPES.get(routine, ()) and has_numba():
        return Backend.CPU
    if device.type == "cuda" and dtype in GPU_DTYPES.get(routine, ()) and has_triton():
        return Backend.GPU
    return Backend.TORCH


@cache
def has_numba() -> bool:
    """Is Numba installed (the extra `fast`)?"""
    return find_spec("numba") is not None


@cache
def has_triton() -> bool:
    """Is Triton installed? torch's CUDA wheels bring it on Linux."""
    return find_spec("triton") is not None
