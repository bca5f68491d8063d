"""Passes that note in each `Layer` what it will be; they change nothing in the graph."""
