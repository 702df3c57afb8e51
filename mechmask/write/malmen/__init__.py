"""MALMEN's trained networks (Tan et al. 2024); the editor itself is ``mechmask.write.methods.malmen``."""
