"""Access to a network that every analysis shares: forward passes, weights, hooks, and requirements of measures."""
