"""Tasks: the sequences that the toys are trained on, one file for each; ``task.py`` defines the interface."""
