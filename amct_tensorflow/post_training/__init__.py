"""Post-training quantization: each job a file, and what the jobs share (observe, deploy, feeders)."""
