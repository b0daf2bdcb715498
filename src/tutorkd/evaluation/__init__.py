"""Evaluation: encoders fine-tuned on labelled text, causal language models as they are; measured and compared."""
