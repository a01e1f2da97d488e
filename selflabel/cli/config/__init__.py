"""What the command line can be told: options, TOML files, names of solvers and losses, and what they are made into."""
