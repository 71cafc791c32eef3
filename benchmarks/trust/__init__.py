"""Bad input and faults, beside scvi-tools."""
