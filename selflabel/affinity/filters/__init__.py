"""How a dense W is applied: the exact filters, the permutohedral lattice in torch and compiled, and their sums."""
