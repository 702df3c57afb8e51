"""``ElasticityStudy``: what was installed, contradicted to several doses, and taught again (Ji et al. 2025).

The old values are installed, contradicted for n optimizer steps, and taught again: after how many steps do they lead,
and does that take fewer the more they were contradicted? The same is done to a model that was never taught them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import xarray as xr
from pydantic import Field, field_validator

from mechmask import draw
from mechmask.configuration import Configuration
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.measure.elasticity import INSTALLED, NEVER, elasticity, ways
from mechmask.models.model import Model
from mechmask.models.routes import encode_contests
from mechmask.study.exports import export_figure, export_table
from mechmask.study.outcome import outcome
from mechmask.study.preparation import require_one_shape, require_roles, require_routes
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import reading_in
from mechmask.study.training import OUTPUT, Trained, train
from mechmask.study.watches import recall_watch
from mechmask.write.finetune_config import FinetuneConfig


class ElasticityConfig(Configuration):
    """Install, contradict to several doses, teach again.

    Attributes:
        install: how the old values are taught first: each step shows every row once, so that its steps are how many
            times each is shown.
        contradict: how the new values are taught, from there on; its steps are those of the doses.
        doses: for how many optimizer steps; two or more.
        revert: how the old values are taught again, and for how many steps at most.
        taught_phrasings: in how many of its phrasings each fact is taught, the prompt first.
        read_every: optimizer steps between two readings; 1 for the paper's losses.
        level: of all intervals.
        batch_size: prompts per forward pass when reading; affects memory only.
    """

    install: FinetuneConfig = FinetuneConfig(steps=40)
    contradict: FinetuneConfig = FinetuneConfig()
    doses: tuple[Annotated[int, Field(ge=1)], ...] = (5, 10, 20, 40)
    revert: FinetuneConfig = FinetuneConfig(steps=40)
    taught_phrasings: int = Field(default=1, ge=1)
    read_every: int = Field(default=1, ge=1)
    level: float = Field(default=0.95, gt=0, lt=1)
    batch_size: int = Field(default=32, ge=1)

    @field_validator("doses")
    @classmethod
    def _several(cls, doses: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(doses)) < max(2, len(doses)):
            raise ValueError("rebound compares doses: give two or more, and none twice")
        return doses

    @field_validator("install", "contradict", "revert")
    @classmethod
    def _every_row_in_every_step(cls, value: FinetuneConfig) -> FinetuneConfig:
        if value.batch_size is not None:
            raise ValueError(
                f"batch_size={value.batch_size} would show a fact at some steps only, and a dose would not say how "
                "often it was shown. Leave it out."
            )
        return value


class ElasticityStudy:
    """How easily installed values come back, by how long they were contradicted.

    Args:
        model: the model; it is left as it was.
        facts: two contradicted facts or more, and controls, which are taught their old values throughout.
        config: what is done; ``ElasticityConfig()`` by default.

    Raises:
        StudyError: if the facts lack a role, or the trainings do not continue one another.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ChangeError: if a training names a block that the model lacks.
    """

    def __init__(self, model: Model, facts: FactSet, config: ElasticityConfig | None = None) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config or ElasticityConfig()
        c = self.config
        require_roles(self.facts, "Elasticity", {"contradicted": 2})
        require_routes(model, self.facts)
        require_one_shape(model, {"install": c.install, "contradict": c.contradict, "revert": c.revert})

    def __repr__(self) -> str:
        return f"ElasticityStudy({self.model.name!r}, {self.facts!r})"

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of such a study of the same model and facts.

        Returns:
            Results that hold ``results/ways`` (what ``ways`` gives: steps, and losses in nats per token, by arm, dose
            and fact) and ``results/elasticity`` (what ``elasticity`` makes of them).

        Raises:
            StudyError: if the directory holds something else.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        c, n = self.config, self.config.taught_phrasings
        about = {"protocol": "elasticity", "config": c.model_dump(mode="json")}
        with Run(directory, self.model, self.facts, about) as run:
            run.plan(self._plan())
            watch = recall_watch(self.facts.contradicted, c.read_every, c.batch_size)
            old, new = self.facts.install_examples(n), self.facts.contradiction_examples(n)
            starts = {INSTALLED: train(run, "install", old, c.install), NEVER: None}
            out: dict[tuple[str, int], Trained] = {}
            back: dict[tuple[str, int], Trained] = {}
            for arm, start in starts.items():
                for dose in c.doses:
                    contradict = c.contradict.model_copy(update={"steps": dose})
                    key, name = (arm, dose), f"{arm}_{dose}"
                    out[key] = train(run, f"contradict/{name}", new, contradict, start=start, watch=watch)
                    back[key] = train(run, f"revert/{name}", old, c.revert, start=out[key], watch=watch)

            def of_ways() -> xr.Dataset:
                return ways(_courses(out), _courses(back), self._n_tokens())

            sources = [step for each in (out, back) for one in each.values() for step in one.checkpoints.values()]
            found = outcome(run, "ways", sources, of_ways)
            level = {"level": c.level}
            table = outcome(run, "elasticity", [found], lambda: elasticity(reading_in(found), c.level), level)
            export_table(run, "elasticity", [table], lambda: reading_in(table).to_dataframe(dim_order=["arm", "dose"]))
            export_figure(run, "elasticity", [table], lambda: draw.elasticity(reading_in(table)))
        return StudyResults(directory)

    def _n_tokens(self) -> xr.DataArray:
        """How many tokens each value has ``[fact, route]``."""
        contests = [one for one in encode_contests(self.model.tokenizer, self.facts.contradicted) if one is not None]
        routes = ["old", "new"]
        counts = [[len(contest.routes[route]) for route in routes] for contest in contests]
        return xr.DataArray(counts, {"fact": list(self.facts.contradicted.ids), "route": routes}, ("fact", "route"))

    def _plan(self) -> dict[str, int | None]:
        """Every step that will be taken, with the most optimizer steps of a training."""
        c = self.config
        pairs = [(f"{arm}_{dose}", dose) for arm in (INSTALLED, NEVER) for dose in c.doses]
        trained = {"install": c.install.steps} | {f"contradict/{name}": dose for name, dose in pairs}
        trained |= {f"revert/{name}": c.revert.steps for name, _ in pairs}
        results = dict.fromkeys([f"results/{name}" for name in ("ways", "elasticity")])
        return {**{f"changes/{name}": steps for name, steps in trained.items()}, **results}


def _courses(trained: Mapping[tuple[str, int], Trained]) -> dict[tuple[str, int], dict[int, xr.Dataset]]:
    """What was read of the prompts on the way of every training."""
    return {
        key: {step: reading.isel(phrasing=0, drop=True) for step, reading in one.readings(OUTPUT).items()}
        for key, one in trained.items()
    }
