"""GLUE: every task fine-tuned over a grid and seeds, official metrics, beside the published rows."""
