"""Everything that the studies share: command line, data, tables of runs, pages."""
