"""One training run: preparation, Trainer and its arguments, callbacks, checkpoints."""
