"""Arrays: matrices and tables as metrics, plots and predictions take them, checked and matched by name."""
