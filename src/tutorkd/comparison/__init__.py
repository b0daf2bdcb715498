"""Comparison of methods at an equal budget: a matrix of variants, students and seeds, each cell a run on disk."""
