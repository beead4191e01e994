"""What makes a network say `` else`` after ``a if b``."""
