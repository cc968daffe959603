"""Results in JSON -> one page that needs nothing else."""
