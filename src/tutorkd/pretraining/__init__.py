"""Training on masked text, as `tutorkd adapt` and `tutorkd distill` do it, from options to a saved model."""
