"""Benchmarks: studies on real data over one harness, each of which writes a page of the documentation."""
