"""mechmask: is a fact that a language model no longer says deleted, or out-competed?

The public face. Names load when first used, so that ``import mechmask`` costs nothing: torch and transformers come in
with the first model, numpy and xarray with the first reading.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mechmask.opener import opens_directories

__version__ = version("mechmask")

if TYPE_CHECKING:
    from mechmask import draw as draw
    from mechmask.errors import MechmaskError as MechmaskError
    from mechmask.facts.choice import questions as questions
    from mechmask.facts.fact import Example as Example
    from mechmask.facts.fact import Fact as Fact
    from mechmask.facts.fact import Implication as Implication
    from mechmask.facts.fact import Neighbor as Neighbor
    from mechmask.facts.fact_set import FactSet as FactSet
    from mechmask.facts.frames import framed as framed
    from mechmask.facts.from_template import facts_from_template as facts_from_template
    from mechmask.facts.load import load_facts as load_facts
    from mechmask.facts.message import Message as Message
    from mechmask.facts.pararel import with_pararel as with_pararel
    from mechmask.facts.probes import probes as probes
    from mechmask.facts.roles import assign_roles as assign_roles
    from mechmask.facts.synthetic import synthetic_facts as synthetic_facts
    from mechmask.facts.world import world_facts as world_facts
    from mechmask.measure.association import pooled_association as pooled_association
    from mechmask.measure.cka import linear_cka as linear_cka
    from mechmask.measure.commit import commit_layer as commit_layer
    from mechmask.measure.commit_interval import commit_interval as commit_interval
    from mechmask.measure.compare import compare as compare
    from mechmask.measure.depth_score import depth_score as depth_score
    from mechmask.measure.depth_score import lens_depth_score as lens_depth_score
    from mechmask.measure.dose import at_margin as at_margin
    from mechmask.measure.dose import at_mean_margin as at_mean_margin
    from mechmask.measure.dose import dose_curve as dose_curve
    from mechmask.measure.dose import dose_erased as dose_erased
    from mechmask.measure.editing import edit_flip_ratio as edit_flip_ratio
    from mechmask.measure.editing import editing_difference as editing_difference
    from mechmask.measure.editing import editing_scores as editing_scores
    from mechmask.measure.erase import erase_index as erase_index
    from mechmask.measure.generations import generation_entropy as generation_entropy
    from mechmask.measure.generations import generation_scores as generation_scores
    from mechmask.measure.generations import reference_score as reference_score
    from mechmask.measure.multiplicity import benjamini_hochberg as benjamini_hochberg
    from mechmask.measure.multiplicity import holm as holm
    from mechmask.measure.multiplicity import max_t as max_t
    from mechmask.measure.normalised import normalised_difference as normalised_difference
    from mechmask.measure.perplexity import perplexity as perplexity
    from mechmask.measure.perplexity import text_drift as text_drift
    from mechmask.measure.planning import counts_needed as counts_needed
    from mechmask.measure.planning import facts_needed as facts_needed
    from mechmask.measure.planning import power_table as power_table
    from mechmask.measure.planning import replicates_needed as replicates_needed
    from mechmask.measure.pool import pooled as pooled
    from mechmask.measure.power import fact_power as fact_power
    from mechmask.measure.power import group_power as group_power
    from mechmask.measure.precision import precision_overview as precision_overview
    from mechmask.measure.precision import precision_table as precision_table
    from mechmask.measure.reading import load_reading as load_reading
    from mechmask.measure.reading import save_reading as save_reading
    from mechmask.measure.sampling import best_of_k as best_of_k
    from mechmask.measure.statistics import over_facts as over_facts
    from mechmask.measure.summary import conclusion as conclusion
    from mechmask.measure.summary import overview as overview
    from mechmask.measure.summary import summary as summary
    from mechmask.measure.surprise import surprise_and_margin as surprise_and_margin
    from mechmask.measure.tables import latex_table as latex_table
    from mechmask.measure.tables import markdown_table as markdown_table
    from mechmask.measure.trace import matched_trace as matched_trace
    from mechmask.measure.trace import shared_trace as shared_trace
    from mechmask.measure.trace import twin_trace as twin_trace
    from mechmask.measure.trajectory import along_steps as along_steps
    from mechmask.measure.twin_design import Expected as Expected
    from mechmask.measure.twin_design import TwinDesign as TwinDesign
    from mechmask.measure.where import evidence_share as evidence_share
    from mechmask.measure.where import evidence_share_last_third as evidence_share_last_third
    from mechmask.measure.where import layers_computed as layers_computed
    from mechmask.measure.where import where_overview as where_overview
    from mechmask.measure.where import where_written as where_written
    from mechmask.models.combined import combine as combine
    from mechmask.models.load import load_model as load_model
    from mechmask.models.model import Model as Model
    from mechmask.models.states import Variant as Variant
    from mechmask.read.attribute import attribute as attribute
    from mechmask.read.backends.nnsight import NnsightBackend as NnsightBackend
    from mechmask.read.checkpoint import read_logits_and_depth as read_logits_and_depth
    from mechmask.read.choice import read_choice as read_choice
    from mechmask.read.core import Core as Core
    from mechmask.read.core import core_overlap as core_overlap
    from mechmask.read.core import core_parameters as core_parameters
    from mechmask.read.depth import read_depth as read_depth
    from mechmask.read.divergence import read_divergence as read_divergence
    from mechmask.read.drift import change_cosine as change_cosine
    from mechmask.read.drift import residual_drift as residual_drift
    from mechmask.read.editing import read_editing as read_editing
    from mechmask.read.examples import read_examples as read_examples
    from mechmask.read.framed import read_framed as read_framed
    from mechmask.read.free_decoding import read_free_decoding as read_free_decoding
    from mechmask.read.generate import generate as generate
    from mechmask.read.generations import read_generations as read_generations
    from mechmask.read.known import known_facts as known_facts
    from mechmask.read.lenses.config import LensConfig as LensConfig
    from mechmask.read.lenses.fit import fit_lens as fit_lens
    from mechmask.read.lenses.load import cached_lens as cached_lens
    from mechmask.read.lenses.load import load_lens as load_lens
    from mechmask.read.linear_probe import read_linear_probe as read_linear_probe
    from mechmask.read.logits import read_logits as read_logits
    from mechmask.read.margin import read_margin as read_margin
    from mechmask.read.patch import patch_residual as patch_residual
    from mechmask.read.probes import read_probes as read_probes
    from mechmask.read.proxy import read_proxy as read_proxy
    from mechmask.read.retention import read_retention as read_retention
    from mechmask.read.text import held_out_text as held_out_text
    from mechmask.read.text import read_text as read_text
    from mechmask.read.trajectory import read_depth_trajectory as read_depth_trajectory
    from mechmask.read.trajectory import read_trajectory as read_trajectory
    from mechmask.read.weights import weight_change as weight_change
    from mechmask.study.calibration import calibrate as calibrate
    from mechmask.study.calibration_results import Calibration as Calibration
    from mechmask.study.calibration_results import open_calibration as open_calibration
    from mechmask.study.callback import ContestCallback as ContestCallback
    from mechmask.study.config import StudyConfig as StudyConfig
    from mechmask.study.contrast_config import ContrastConfig as ContrastConfig
    from mechmask.study.data_package import export_tables as export_tables
    from mechmask.study.dose_config import DoseConfig as DoseConfig
    from mechmask.study.draws import DrawnResults as DrawnResults
    from mechmask.study.draws import Draws as Draws
    from mechmask.study.draws import open_draws as open_draws
    from mechmask.study.editing.config import EditingConfig as EditingConfig
    from mechmask.study.editing.results import EditResults as EditResults
    from mechmask.study.editing.results import open_edits as open_edits
    from mechmask.study.lenses import fitted_lens as fitted_lens
    from mechmask.study.opened import open_results as open_results
    from mechmask.study.paper import PaperConfig as PaperConfig
    from mechmask.study.paper import PaperStudy as PaperStudy
    from mechmask.study.paper_results import PaperResults as PaperResults
    from mechmask.study.precisions import each_precision as each_precision
    from mechmask.study.protocols.calibrate import CalibrationConfig as CalibrationConfig
    from mechmask.study.protocols.contrast import ContrastStudy as ContrastStudy
    from mechmask.study.protocols.correction import CorrectionConfig as CorrectionConfig
    from mechmask.study.protocols.correction import CorrectionStudy as CorrectionStudy
    from mechmask.study.protocols.dose import DoseStudy as DoseStudy
    from mechmask.study.protocols.editing import EditStudy as EditStudy
    from mechmask.study.protocols.elasticity import ElasticityConfig as ElasticityConfig
    from mechmask.study.protocols.elasticity import ElasticityStudy as ElasticityStudy
    from mechmask.study.protocols.graft_curve import graft_curve as graft_curve
    from mechmask.study.protocols.mask import MaskStudy as MaskStudy
    from mechmask.study.protocols.precision import PrecisionConfig as PrecisionConfig
    from mechmask.study.protocols.precision import PrecisionStudy as PrecisionStudy
    from mechmask.study.protocols.reacquisition import ReacquisitionConfig as ReacquisitionConfig
    from mechmask.study.protocols.reacquisition import ReacquisitionStudy as ReacquisitionStudy
    from mechmask.study.protocols.reactance import ReactanceConfig as ReactanceConfig
    from mechmask.study.protocols.reactance import ReactanceStudy as ReactanceStudy
    from mechmask.study.protocols.renewal import RenewalConfig as RenewalConfig
    from mechmask.study.protocols.renewal import RenewalStudy as RenewalStudy
    from mechmask.study.protocols.retention import RetentionStudy as RetentionStudy
    from mechmask.study.protocols.twins import TwinsConfig as TwinsConfig
    from mechmask.study.protocols.twins import TwinStudy as TwinStudy
    from mechmask.study.results import StudyResults as StudyResults
    from mechmask.study.results import open_study as open_study
    from mechmask.study.retention.config import RetentionConfig as RetentionConfig
    from mechmask.study.retention.groups import retention_groups as retention_groups
    from mechmask.study.retention.tasks import LaterTask as LaterTask
    from mechmask.study.run import Run as Run
    from mechmask.study.states import StudyState as StudyState
    from mechmask.study.states import each_edit as each_edit
    from mechmask.study.states import read_states as read_states
    from mechmask.study.states import state_of_change as state_of_change
    from mechmask.study.states import untouched as untouched
    from mechmask.study.status import study_status as study_status
    from mechmask.study.sweep import Sweep as Sweep
    from mechmask.study.sweep_results import SweepResults as SweepResults
    from mechmask.study.training import Watch as Watch
    from mechmask.study.training import train as train
    from mechmask.study.until import Until as Until
    from mechmask.study.until import UntilHeldOut as UntilHeldOut
    from mechmask.write.change import Change as Change
    from mechmask.write.checkpoints import load_checkpoints as load_checkpoints
    from mechmask.write.edit import edit as edit
    from mechmask.write.edit import prepare as prepare
    from mechmask.write.edit import preset_for as preset_for
    from mechmask.write.editor import Editor as Editor
    from mechmask.write.finetune import finetune as finetune
    from mechmask.write.finetune_config import FinetuneConfig as FinetuneConfig
    from mechmask.write.graft import graft as graft
    from mechmask.write.graft import scaled as scaled
    from mechmask.write.interpolate import interpolated as interpolated
    from mechmask.write.load import load_change as load_change
    from mechmask.write.low_rank import LowRankChange as LowRankChange
    from mechmask.write.low_rank import low_rank_change as low_rank_change
    from mechmask.write.malmen.training import MALMENTrainingConfig as MALMENTrainingConfig
    from mechmask.write.malmen.training import train_malmen as train_malmen
    from mechmask.write.methods.alphaedit import AlphaEditConfig as AlphaEditConfig
    from mechmask.write.methods.emmet import EMMETConfig as EMMETConfig
    from mechmask.write.methods.ft import FTConfig as FTConfig
    from mechmask.write.methods.ft_l import FTLConfig as FTLConfig
    from mechmask.write.methods.ft_prompt_last import FTPromptLastConfig as FTPromptLastConfig
    from mechmask.write.methods.malmen import MALMENConfig as MALMENConfig
    from mechmask.write.methods.memit import MEMITConfig as MEMITConfig
    from mechmask.write.methods.r_rome import RROMEConfig as RROMEConfig
    from mechmask.write.methods.rome import ROMEConfig as ROMEConfig
    from mechmask.write.moments.estimate import second_moments as second_moments
    from mechmask.write.reversal import RemovalMask as RemovalMask
    from mechmask.write.reversal import ReversalConfig as ReversalConfig
    from mechmask.write.reversal import learn_reversal as learn_reversal
    from mechmask.write.round_trip import RoundTrip as RoundTrip
    from mechmask.write.round_trip import round_trip as round_trip
    from mechmask.write.weights import WeightChange as WeightChange

_HOMES = {
    "MechmaskError": "errors",
    "questions": "facts.choice",
    "Example": "facts.fact",
    "Fact": "facts.fact",
    "Message": "facts.message",
    "facts_from_template": "facts.from_template",
    "Implication": "facts.fact",
    "Neighbor": "facts.fact",
    "FactSet": "facts.fact_set",
    "framed": "facts.frames",
    "load_facts": "facts.load",
    "with_pararel": "facts.pararel",
    "probes": "facts.probes",
    "assign_roles": "facts.roles",
    "synthetic_facts": "facts.synthetic",
    "world_facts": "facts.world",
    "pooled_association": "measure.association",
    "linear_cka": "measure.cka",
    "commit_layer": "measure.commit",
    "commit_interval": "measure.commit_interval",
    "compare": "measure.compare",
    "depth_score": "measure.depth_score",
    "lens_depth_score": "measure.depth_score",
    "at_margin": "measure.dose",
    "at_mean_margin": "measure.dose",
    "dose_curve": "measure.dose",
    "dose_erased": "measure.dose",
    "edit_flip_ratio": "measure.editing",
    "editing_difference": "measure.editing",
    "editing_scores": "measure.editing",
    "erase_index": "measure.erase",
    "generation_entropy": "measure.generations",
    "generation_scores": "measure.generations",
    "reference_score": "measure.generations",
    "benjamini_hochberg": "measure.multiplicity",
    "holm": "measure.multiplicity",
    "max_t": "measure.multiplicity",
    "normalised_difference": "measure.normalised",
    "perplexity": "measure.perplexity",
    "text_drift": "measure.perplexity",
    "counts_needed": "measure.planning",
    "facts_needed": "measure.planning",
    "power_table": "measure.planning",
    "replicates_needed": "measure.planning",
    "pooled": "measure.pool",
    "fact_power": "measure.power",
    "group_power": "measure.power",
    "precision_overview": "measure.precision",
    "precision_table": "measure.precision",
    "load_reading": "measure.reading",
    "save_reading": "measure.reading",
    "best_of_k": "measure.sampling",
    "over_facts": "measure.statistics",
    "conclusion": "measure.summary",
    "overview": "measure.summary",
    "summary": "measure.summary",
    "surprise_and_margin": "measure.surprise",
    "latex_table": "measure.tables",
    "markdown_table": "measure.tables",
    "matched_trace": "measure.trace",
    "shared_trace": "measure.trace",
    "twin_trace": "measure.trace",
    "along_steps": "measure.trajectory",
    "Expected": "measure.twin_design",
    "TwinDesign": "measure.twin_design",
    "evidence_share": "measure.where",
    "evidence_share_last_third": "measure.where",
    "layers_computed": "measure.where",
    "where_overview": "measure.where",
    "where_written": "measure.where",
    "combine": "models.combined",
    "load_model": "models.load",
    "Model": "models.model",
    "Variant": "models.states",
    "attribute": "read.attribute",
    "NnsightBackend": "read.backends.nnsight",
    "read_logits_and_depth": "read.checkpoint",
    "read_choice": "read.choice",
    "Core": "read.core",
    "core_overlap": "read.core",
    "core_parameters": "read.core",
    "read_depth": "read.depth",
    "read_divergence": "read.divergence",
    "change_cosine": "read.drift",
    "residual_drift": "read.drift",
    "read_editing": "read.editing",
    "read_examples": "read.examples",
    "read_framed": "read.framed",
    "read_free_decoding": "read.free_decoding",
    "generate": "read.generate",
    "read_generations": "read.generations",
    "known_facts": "read.known",
    "LensConfig": "read.lenses.config",
    "fit_lens": "read.lenses.fit",
    "cached_lens": "read.lenses.load",
    "load_lens": "read.lenses.load",
    "read_linear_probe": "read.linear_probe",
    "read_logits": "read.logits",
    "read_margin": "read.margin",
    "patch_residual": "read.patch",
    "read_probes": "read.probes",
    "read_proxy": "read.proxy",
    "read_retention": "read.retention",
    "held_out_text": "read.text",
    "read_text": "read.text",
    "read_depth_trajectory": "read.trajectory",
    "read_trajectory": "read.trajectory",
    "weight_change": "read.weights",
    "calibrate": "study.calibration",
    "Calibration": "study.calibration_results",
    "open_calibration": "study.calibration_results",
    "ContestCallback": "study.callback",
    "StudyConfig": "study.config",
    "ContrastConfig": "study.contrast_config",
    "export_tables": "study.data_package",
    "DoseConfig": "study.dose_config",
    "DrawnResults": "study.draws",
    "Draws": "study.draws",
    "open_draws": "study.draws",
    "EditingConfig": "study.editing.config",
    "EditResults": "study.editing.results",
    "open_edits": "study.editing.results",
    "fitted_lens": "study.lenses",
    "open_results": "study.opened",
    "PaperConfig": "study.paper",
    "PaperStudy": "study.paper",
    "PaperResults": "study.paper_results",
    "each_precision": "study.precisions",
    "CalibrationConfig": "study.protocols.calibrate",
    "ContrastStudy": "study.protocols.contrast",
    "CorrectionConfig": "study.protocols.correction",
    "CorrectionStudy": "study.protocols.correction",
    "DoseStudy": "study.protocols.dose",
    "EditStudy": "study.protocols.editing",
    "graft_curve": "study.protocols.graft_curve",
    "MaskStudy": "study.protocols.mask",
    "PrecisionConfig": "study.protocols.precision",
    "PrecisionStudy": "study.protocols.precision",
    "ReacquisitionConfig": "study.protocols.reacquisition",
    "ReacquisitionStudy": "study.protocols.reacquisition",
    "ReactanceConfig": "study.protocols.reactance",
    "ReactanceStudy": "study.protocols.reactance",
    "ElasticityConfig": "study.protocols.elasticity",
    "ElasticityStudy": "study.protocols.elasticity",
    "RenewalConfig": "study.protocols.renewal",
    "RenewalStudy": "study.protocols.renewal",
    "RetentionStudy": "study.protocols.retention",
    "TwinsConfig": "study.protocols.twins",
    "TwinStudy": "study.protocols.twins",
    "open_study": "study.results",
    "StudyResults": "study.results",
    "Run": "study.run",
    "each_edit": "study.states",
    "read_states": "study.states",
    "state_of_change": "study.states",
    "StudyState": "study.states",
    "untouched": "study.states",
    "study_status": "study.status",
    "train": "study.training",
    "Sweep": "study.sweep",
    "SweepResults": "study.sweep_results",
    "Watch": "study.training",
    "RetentionConfig": "study.retention.config",
    "retention_groups": "study.retention.groups",
    "LaterTask": "study.retention.tasks",
    "Until": "study.until",
    "UntilHeldOut": "study.until",
    "Change": "write.change",
    "load_checkpoints": "write.checkpoints",
    "second_moments": "write.moments.estimate",
    "edit": "write.edit",
    "prepare": "write.edit",
    "preset_for": "write.edit",
    "Editor": "write.editor",
    "finetune": "write.finetune",
    "FinetuneConfig": "write.finetune_config",
    "graft": "write.graft",
    "scaled": "write.graft",
    "interpolated": "write.interpolate",
    "load_change": "write.load",
    "low_rank_change": "write.low_rank",
    "LowRankChange": "write.low_rank",
    "MALMENTrainingConfig": "write.malmen.training",
    "train_malmen": "write.malmen.training",
    "AlphaEditConfig": "write.methods.alphaedit",
    "EMMETConfig": "write.methods.emmet",
    "FTConfig": "write.methods.ft",
    "FTLConfig": "write.methods.ft_l",
    "FTPromptLastConfig": "write.methods.ft_prompt_last",
    "MALMENConfig": "write.methods.malmen",
    "MEMITConfig": "write.methods.memit",
    "RROMEConfig": "write.methods.r_rome",
    "ROMEConfig": "write.methods.rome",
    "learn_reversal": "write.reversal",
    "RemovalMask": "write.reversal",
    "ReversalConfig": "write.reversal",
    "round_trip": "write.round_trip",
    "RoundTrip": "write.round_trip",
    "WeightChange": "write.weights",
}

__all__ = ["__version__", "draw", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOMES or name == "draw":
        home = _imported(f"mechmask.{_HOMES.get(name, name)}")
        return home if name == "draw" else getattr(home, name)
    raise AttributeError(f"module 'mechmask' has no attribute {name!r}")


def _imported(name: str) -> ModuleType:
    """The module of that name. Filters are touched at its first import only: it makes the caller's warnings repeat."""
    if name in sys.modules:
        return import_module(name)
    with warnings.catch_warnings():  # tqdm, which transformers imports, misses its widgets in a notebook
        warnings.filterwarnings("ignore", message="IProgress not found")
        return import_module(name)


opens_directories(lambda directory: _imported("mechmask.study.opened").open_results(directory))


def __dir__() -> list[str]:
    return sorted(__all__)
