"""What carries a behaviour: how much of what a network knows some of its heads do."""
