"""How a model is to read the two texts of a pair, found out by a short training with each way."""
