"""Speed beside scvi-tools and scanpy."""
