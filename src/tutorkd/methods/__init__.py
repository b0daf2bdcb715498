"""Other distillation methods, trained on the same rows and masks as Tutor-KD; each states its paper."""
