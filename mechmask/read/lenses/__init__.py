"""Lenses that are fitted: ridge in closed form, tuned by KL divergence; their text, files and cache."""
