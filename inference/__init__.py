"""Inference: what fits. Needs the base install alone."""
