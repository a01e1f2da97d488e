"""Helpers of the tests: problems, reference formulas, broken solvers, folders and runs."""
