"""When something formed: steps at which scores leave their nulls, roles of heads, and sentences about them."""
