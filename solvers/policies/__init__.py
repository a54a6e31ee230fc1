"""Rules that a linear program writes: one file a rule, registered when `solvers` is imported."""
