"""Names of heads by what they attend to, without torch: pages and summaries read them too."""

# The name of a head that mainly does what an attention score measures.
HEAD_NAMES = {
    "previous_token": "previous-token head",
    "prefix_matching": "induction head",
    "duplicate_token": "duplicate-token head",
    "current_token": "current-token head",
    "first_token": "attention sink",
}
# A head mainly does what it is more than half of the way to, from chance to attending to nothing else.
MAINLY = 0.5
