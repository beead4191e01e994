"""Names of the axes that scores have in common."""

HEAD = ("layer", "head")
PAIR = ("from_layer", "from_head", "to_layer", "to_head")
