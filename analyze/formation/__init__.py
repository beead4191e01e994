"""When something formed: the steps at which scores leave their null bands, the roles of heads, sentences about both."""
