"""Why a head attends from the end of a sentence to a name in it."""
