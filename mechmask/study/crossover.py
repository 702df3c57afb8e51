"""The crossover of twins: which facts each is taught, and their readings joined.

Every contradicted fact is taught in one twin of a replicate and unknown in the others, and controls are known in all,
so that each fact is its own reference (DESIGN, definitions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.measure.trace import TWIN
from mechmask.study.run import Run
from mechmask.study.tables import concatenated
from mechmask.study.training import Trained, train
from mechmask.write.finetune_config import FinetuneConfig


def require_shares(facts: FactSet, twins: int) -> None:
    """Refuse facts that cannot be dealt to so many twins.

    Args:
        facts: contradicted facts and controls.
        twins: how many.

    Raises:
        StudyError: if there are fewer contradicted facts than twins, or no control.
    """
    if len(facts.contradicted) < twins or not facts.control:
        raise StudyError(
            f"{twins} twins need as many contradicted facts and at least one control; there are "
            f"{len(facts.contradicted)} and {len(facts.control)}. Give more facts, or take fewer twins."
        )


def shares(facts: FactSet, twins: int, replicates: int = 1) -> dict[str, tuple[str, ...]]:
    """The labels of the contradicted facts that each twin is taught, by its name; dealt in the order of their labels.

    Args:
        facts: of which the contradicted ones are dealt, in whatever order they come.
        twins: how many of one replicate.
        replicates: of all twins.
    """
    ids = sorted(facts.contradicted.ids)
    return {f"twin_{r}_{t}": tuple(ids[t::twins]) for r in range(replicates) for t in range(twins)}


def taught(facts: FactSet, share: Sequence[str]) -> FactSet:
    """What a twin with such a share is taught: its share and the controls.

    Args:
        facts: all facts.
        share: labels.
    """
    return facts.select([*share, *facts.control.ids])


def installed_twins(
    run: Run, facts: FactSet, dealt: Mapping[str, Sequence[str]], install: FinetuneConfig | None, phrasings: int
) -> dict[str, Trained]:
    """Every twin with its share installed, by its name; none where nothing is installed.

    Args:
        run: which run.
        facts: all facts.
        dealt: the shares, by name.
        install: how the old values are taught.
        phrasings: in how many of its phrasings each fact is taught.
    """
    if install is None:
        return {}
    return {
        twin: train(run, f"install/{twin}", taught(facts, share).install_examples(phrasings), install)
        for twin, share in dealt.items()
    }


def joined_twins(readings: Sequence[xr.Dataset], dealt: Mapping[str, Sequence[str]], facts: FactSet) -> xr.Dataset:
    """The readings of all twins along ``twin``, with ``knew[twin, fact]``: which facts each of them was taught.

    Args:
        readings: of each twin, in the order of ``dealt``.
        dealt: their shares, by name.
        facts: all facts.
    """
    joined = concatenated(readings, TWIN, dealt)
    known = [set(taught(facts, share).ids) for share in dealt.values()]
    knew = np.array([[fact in ids for fact in joined.fact.values.tolist()] for ids in known])
    return joined.assign(knew=((TWIN, "fact"), knew))
