"""What every reading stands on: the forward pass, the unembedding, the table of routes, the self-check, the labels."""
