"""The hash by which tuned-lens identifies the unembedding that a lens was fitted with.

SHA-256 of the matrix as numpy prints it, to one decimal: of a large one that is its corners only. It tells models
apart, not their fine-tuned versions; the fingerprint in a lens's details does that.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from jaxtyping import Float
from torch import Tensor


def unembedding_hash(weight: Float[Tensor, "vocabulary width"]) -> str:
    """The hash of an unembedding matrix, whatever the user's print options."""
    with np.printoptions(edgeitems=3, threshold=1000, linewidth=75, suppress=False, floatmode="maxprec"):
        return sha256(np.array_str(weight.detach().cpu().float().numpy(), precision=1).encode()).hexdigest()
