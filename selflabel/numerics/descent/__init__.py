"""Soft labels: coordinates, line search, coarse-to-fine starts, and sweeps of mean field."""
