"""What scripts share with the command line."""
