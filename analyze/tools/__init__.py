"""Questions that take more than a network and a batch: probes, the logit lens, anomaly scores, and others."""
