"""Metrics by family: each is a function of an `EvaluationContext` that returns `Metric` rows."""
