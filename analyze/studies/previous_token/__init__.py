"""How a network without positions finds the token before."""
