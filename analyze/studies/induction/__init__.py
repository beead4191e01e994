"""How a network finds what followed a token before, and whether it also does so after a synonym."""
