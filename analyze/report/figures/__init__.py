"""Figures for papers: one file draws one figure, ``plot`` chooses and saves them."""
