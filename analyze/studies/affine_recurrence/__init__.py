"""How a network predicts an affine recurrence, layer by layer."""
