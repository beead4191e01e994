"""Why does a network predict `` else`` after ``a if b``?"""
