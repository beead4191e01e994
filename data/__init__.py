"""Tasks: what the toys are trained on. One file each; ``task.py`` says what a task is."""
