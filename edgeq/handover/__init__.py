"""Files for runtimes that are not edgeq's, made of a bundle: one file for each target."""
