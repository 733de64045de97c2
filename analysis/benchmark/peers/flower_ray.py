"""Stock Flower on Ray: one client for each user, FedAvg with Flower's server-side clip and noise.

Each actor builds the model once, keeps it between clients and has one CPU, so that as many actors
run as there are threads. Start-up (Ray, actors, models) ends before the first timed round. Only the
adapter is sent. Updates are clipped at the server, where Flower's strategy does it.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, Strategy
from flwr.simulation import run_simulation

from userdp.analysis.benchmark.peers.side import Side
from userdp.analysis.benchmark.peers.work import Spec, Work, collate, record_losses, trained

importlib.import_module("ray")  # Flower itself misses it only when a simulation starts


def main(work: Work, serve: Callable[[Side], None]) -> None:
    """Serve rounds in which every client trains once."""
    line = json.dumps(asdict(work.spec))
    server = ServerApp()

    @server.main()
    def serve_rounds(grid: Grid, _: Context) -> None:
        serve(_rounds(work, grid))

    run_simulation(server, _client(line), work.spec.users, backend_config=_resources(work.spec))


def _rounds(work: Work, grid: Grid) -> Side:
    spec = work.spec
    start = torch.nn.utils.parameters_to_vector(trained(work.plain())).detach().cpu().numpy()
    arrays, number = ArrayRecord({"adapter": Array(start)}), 0

    def one_round(strategy: Strategy) -> Any:
        nonlocal number
        number += 1
        messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        replies = list(grid.send_and_receive(messages))
        failed = [reply for reply in replies if reply.has_error()]
        if failed or len(replies) < spec.users:
            raise RuntimeError(f"{len(failed)} of {spec.users} clients failed: {failed[:1]}")
        new, _ = strategy.aggregate_train(number, replies)
        return new

    def go() -> None:
        nonlocal arrays
        arrays = one_round(_strategy(spec, spec.noise_multiplier))

    def clipped_sum() -> np.ndarray:
        new: np.ndarray = one_round(_strategy(spec, 0.0))["adapter"].numpy()
        before: np.ndarray = arrays["adapter"].numpy()
        total: np.ndarray = spec.users * (new.astype(np.float64) - before)
        return total

    details = {"actors": torch.get_num_threads(), "start-up": "not timed"}
    return Side(go=go, clipped_sum=clipped_sum, details=details, processes=True)


def _strategy(spec: Spec, noise_multiplier: float) -> Strategy:
    inner = FedAvg(fraction_evaluate=0.0, min_available_nodes=spec.users)
    return DifferentialPrivacyServerSideFixedClipping(
        inner, noise_multiplier, spec.clip_norm, num_sampled_clients=spec.users
    )


def _client(line: str) -> ClientApp:
    """The app of every client.

    Args:
        line: the spec as JSON, which can be pickled and hashed.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, users = _local(line)
        leaves = trained(model)
        device = leaves[0].device
        adapter = message.content.array_records["arrays"]["adapter"].numpy()
        start = torch.from_numpy(adapter.copy()).to(device)
        torch.nn.utils.vector_to_parameters(start, leaves)
        batch = collate(users[int(context.node_config["partition-id"])], str(device))
        loss = record_losses(model, batch["input_ids"], batch["labels"]).mean()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, leaves)])
        reply: dict[str, Any] = {
            "arrays": ArrayRecord({"adapter": Array((start - gradient).cpu().numpy())}),
            "metrics": MetricRecord({"num-examples": 1}),  # users weigh the same
        }
        return Message(RecordDict(reply), reply_to=message)

    return app


@functools.cache
def _local(line: str) -> tuple[torch.nn.Module, list[list[np.ndarray]]]:
    """The model and the users' records, built once in each actor."""
    torch.set_num_threads(1)
    work = Work(Spec(**json.loads(line)))
    return work.plain(), list(work.users())


def _resources(spec: Spec) -> dict[str, Any]:
    cpus = torch.get_num_threads()
    gpus = 1.0 / cpus if spec.device.startswith("cuda") else 0.0
    return {
        "init_args": {"num_cpus": cpus},
        "client_resources": {"num_cpus": 1, "num_gpus": gpus},
    }
