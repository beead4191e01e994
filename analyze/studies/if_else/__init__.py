"""The study of ``a if b else c``: prompts, one file for each kind of question, and the study itself."""
