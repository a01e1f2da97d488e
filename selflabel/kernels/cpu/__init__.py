"""Loops that Numba compiles for the CPU. `numba` and `llvmlite` are imported in this folder only.

The functions that Numba compiles have no annotations (it infers types from the arguments); those around them do.
"""
