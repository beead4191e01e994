"""How does a network predict an affine recurrence, layer by layer?"""
