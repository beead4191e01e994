"""To import this makes nulls pool few fresh networks, also in a process that a test starts.

Most tests ask of a null no more than that it is the same again, and 64 networks take longer than to train a toy.
"""

from headway.analyze.measures import nulls

WHOLE = nulls.NETWORKS
nulls.NETWORKS = 11
