"""Axis names that scores share."""

HEAD = ("layer", "head")
PAIR = ("from_layer", "from_head", "to_layer", "to_head")
