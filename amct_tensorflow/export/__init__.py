"""Jobs that give an int8 model to runtimes which have int8 kernels, in the formats of these."""
