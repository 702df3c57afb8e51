"""Looks at a model: output log-probabilities and the contest at every layer. Never changes a weight."""
