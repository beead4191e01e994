"""Which edges carry a behaviour: empty until a circuit is searched for."""
