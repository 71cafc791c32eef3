"""Large data: time and memory from a hundred thousand to a million cells, in memory and from disk."""
