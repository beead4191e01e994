"""Formation: steps at which scores leave their null bands, the roles of heads, sentences about both."""
