"""Passes that rewire the graph as planned."""
