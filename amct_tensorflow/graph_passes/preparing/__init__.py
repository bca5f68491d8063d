"""Passes that make a graph one that can be planned: they rewire it and keep what it computes."""
