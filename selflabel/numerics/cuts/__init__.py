"""Hard labels: minimum cuts, and the moves made of them. Arrays only; knows no `Problem`."""
