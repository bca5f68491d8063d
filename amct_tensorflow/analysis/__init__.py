"""Jobs that look at a model and change nothing."""
