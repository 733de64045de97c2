"""Apple's pfl: its simulated backend, federated averaging and central Gaussian mechanism.

In its fastest configuration: one local step on all records of a user, only the adapter in the local
optimiser, no evaluation of users before and after they train (its first round, the warm-up,
evaluates them regardless), no metrics printed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from pfl.privacy.gaussian_mechanism import GaussianMechanism
from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism
from torch import Tensor, nn

from userdp.analysis.benchmark.peers.side import Side
from userdp.analysis.benchmark.peers.work import Work, collate, record_losses, trained


def main(work: Work, serve: Callable[[Side], None]) -> None:
    """Serve central iterations over all users."""
    spec = work.spec
    os.environ["PFL_PYTORCH_DEVICE"] = spec.device
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    model, algorithm = _model(work), FederatedAveraging()
    backend = _backend(work, spec.noise_multiplier)
    train = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=1.0, local_batch_size=None)
    rounds = 0

    def one_round() -> None:
        nonlocal rounds
        rounds += 1
        algorithm.run(
            _params(spec.users, rounds), backend, model, train, send_metrics_to_platform=False
        )

    def clipped_sum() -> np.ndarray:
        contexts, _, _ = FederatedAveraging().get_next_central_contexts(
            model, 1, _params(spec.users, 2), train
        )
        gathered = _backend(work, 0.0).async_gather_results(
            model, FederatedAveraging(), central_context=contexts[0]
        )
        statistics, _ = loop.run_until_complete(gathered)
        return np.concatenate([part.double().cpu().numpy().ravel() for part in
                               (statistics[name] for name in model.variable_map)])  # fmt: skip

    serve(Side(go=one_round, clipped_sum=clipped_sum))


class _Adapted(nn.Module):
    """The model with the two methods that pfl calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Mean over records of the mean token loss; ids and labels are (records, tokens)."""
        return record_losses(self.inner, ids, labels).mean()

    @torch.no_grad()
    def metrics(self, ids: Tensor, labels: Tensor) -> dict[str, Any]:
        """The loss of ids and labels (records, tokens), as pfl weighs it."""
        return {"loss": Weighted.from_unweighted(float(self.loss(ids, labels)))}


def _model(work: Work) -> PyTorchModel:
    inner = work.plain()
    return PyTorchModel(
        _Adapted(inner),
        lambda _, lr: torch.optim.SGD(trained(inner), lr=lr),
        torch.optim.Adam(trained(inner), lr=work.spec.learning_rate),
    )


def _backend(work: Work, noise_multiplier: float) -> SimulatedBackend:
    """pfl's backend, which trains every user once in each round."""
    users = [
        Dataset((batch["input_ids"], batch["labels"]), user_id=str(number))
        for number, records in enumerate(work.users())
        for batch in [collate(records, work.spec.device)]
    ]
    sampler = get_user_sampler("minimize_reuse", list(range(len(users))))
    dataset = FederatedDataset(lambda number: users[number], sampler)
    mechanism = GaussianMechanism(work.spec.clip_norm, noise_multiplier)
    return SimulatedBackend(
        training_data=dataset,
        val_data=dataset,
        postprocessors=[CentrallyAppliedPrivacyMechanism(mechanism)],
    )


def _params(users: int, rounds: int) -> NNAlgorithmParams:
    return NNAlgorithmParams(
        central_num_iterations=rounds,
        evaluation_frequency=1 << 30,
        train_cohort_size=users,
        val_cohort_size=None,
    )
