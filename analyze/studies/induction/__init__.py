"""Which heads form an induction circuit, and does it also work after a synonym?"""
