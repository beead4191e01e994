"""Published toys trained again: the configurations, what was published, and how ours compare over seeds."""
