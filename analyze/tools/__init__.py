"""Analyses that need more than a network and a batch: probes, the logit lens, skip trigrams, anomaly scores, …"""
