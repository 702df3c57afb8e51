"""Experiments, one file each: a protocol reads like the paragraph of its paper."""
