"""The user inference attack of Kandpal et al. (arXiv 2310.09266, section 3) on the run of a folder.

The statistic of a user is the mean over the user's known texts of the log-likelihood ratio of
adapter against base model, in nats a predicted token:

    T(x_1 ... x_m) = 1/m sum_i 1/n_i log( p_adapter(x_i) / p_base(x_i) )

with n_i the predicted tokens of text i. Without training it is 0 for every user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import safetensors.numpy
import torch

from userdp.analysis.user_inference import known_texts
from userdp.analysis.user_inference.known_texts import Known
from userdp.analysis.user_inference.options import Options
from userdp.clients.evaluation import heldout
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import stored_config
from userdp.sim.config.data import Data
from userdp.sim.config.settings import Model, Settings
from userdp.sim.data.population import Population
from userdp.sim.inputs import run_inputs
from userdp.sim.inputs.run_inputs import RunInputs
from userdp.sim.run import prepare
from userdp.sim.run_folder.layout import RunFolder

LoadInputs = Callable[[Data, Model, int, str], RunInputs]


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """The statistics of a run's users; of private data, so they are never stored."""

    kind: str  # of the known texts, as `Known.kind`
    members: np.ndarray  # (participants,) float64, nats a token
    others: np.ndarray  # (other users,) float64
    member_texts: np.ndarray  # (participants,) int64, as `Side.available`
    other_texts: np.ndarray  # (other users,) int64


def settings_of(folder: RunFolder) -> Settings:
    """The settings of a run that may be attacked.

    Raises:
        ConfigurationError: there is no such run, it is not complete, or not for simulations only.
    """
    settings, _ = stored_config.stored(folder)
    if not settings.track.simulation_only:
        raise ConfigurationError(
            f"attack {folder.path}: track.simulation_only=false: the attack computes its figures "
            "from private data without noise; attack runs with track.simulation_only=true."
        )
    if not folder.complete:
        raise ConfigurationError(
            f"attack {folder.path}: the run is not complete; finish it by userdp run "
            f"resume={folder.path}."
        )
    return prepare.in_its_precision(replace(settings, resume=str(folder.path)))


def attack(folder: RunFolder, options: Options, load: LoadInputs = run_inputs.load) -> Attacked:
    """The statistics of users who trained and of users who did not, under a run's adapter.

    Args:
        load: loads records and model; by default from scratch.

    Raises:
        ConfigurationError: as `settings_of` and `known_texts.known`; the adapter is missing, of
            another base model, or scores a text with a loss that is not finite.
    """
    settings = settings_of(folder)
    inputs = load(settings.data, settings.model, settings.seed, settings.device)
    known = known_texts.known(settings, inputs.corpus, options)
    engine = run_inputs.fit_engine(settings, inputs.model, inputs.probed)
    adapter = released(folder, inputs.model)
    return _attacked(known, inputs.model, adapter, settings.model.seq_len, engine)


def _attacked(
    known: Known, model: LanguageModel, adapter: np.ndarray, seq_len: int, engine: EngineSettings
) -> Attacked:
    members, others = (
        statistics(model, adapter, side.texts, seq_len=seq_len, max_tokens=engine.max_tokens)
        for side in (known.members, known.others)
    )
    if not np.isfinite([members.sum(), others.sum()]).all():
        raise ConfigurationError(
            "attack: the adapter or its base model has a loss that is not finite on a text; there "
            "is nothing to compare."
        )
    return Attacked(
        kind=known.kind,
        members=members,
        others=others,
        member_texts=known.members.available,
        other_texts=known.others.available,
    )


def statistics(
    model: LanguageModel,
    adapter: np.ndarray,
    texts: Population,
    *,
    seq_len: int,
    max_tokens: int,
) -> np.ndarray:
    """(users,) float64: T of each user of a population, in nats a token.

    Args:
        model: its initial adapter is the base model.
        adapter: (D,) float32.
        texts: of each user at least one with a token to predict.
        max_tokens: positions of one forward pass.

    Raises:
        ValueError: the evaluation has no scores of records.
    """
    base, tuned = (
        heldout.evaluate(
            model,
            torch.from_numpy(vector).to(model.device),
            texts,
            seq_len=seq_len,
            max_tokens=max_tokens,
        ).records
        for vector in (model.initial.numpy(), adapter)
    )
    if base is None or tuned is None:
        raise ValueError("This evaluation has no scores of records.")
    ratios = (base.losses - tuned.losses) / base.tokens
    totals, counts = np.bincount(base.users, ratios), np.bincount(base.users)
    means: np.ndarray = totals / counts
    return means


def released(folder: RunFolder, model: LanguageModel) -> np.ndarray:
    """(D,) float32: the adapter that a run saved, in the order of the model's layout.

    Raises:
        ConfigurationError: it is missing or damaged, or does not fit the model.
    """
    path = folder.adapter / "adapter_model.safetensors"
    try:
        tensors = safetensors.numpy.load_file(path)
        shapes = {name: tensors[name].shape for name, _ in model.layout.shapes}
        if shapes != dict(model.layout.shapes):
            raise ValueError("other shapes")
        vector = np.concatenate([tensors[name].ravel() for name, _ in model.layout.shapes])
    except (OSError, LookupError, ValueError, safetensors.SafetensorError):
        raise ConfigurationError(
            f"attack {folder.path}: there is no {path.name} that fits its base model; restore the "
            "run's own adapter and base model."
        ) from None
    return vector.astype(np.float32)
