"""Closed forms: the linear systems of random walkers and their solvers. Knows no `Problem`."""
