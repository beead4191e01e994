"""What every analysis needs of a network: one forward pass, weights, hooks, and what a measure requires."""
