"""Flower ServerApp: starts a strategy with the grid and the adapter that its optimiser holds."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from userdp.server.strategy import PrivateStrategy
from userdp.server.time_limit import TimeLimitedGrid

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


def server_app(strategy: PrivateStrategy, rounds: int, evaluate: EvaluateFn) -> ServerApp:
    """The ServerApp of a run.

    Args:
        strategy: runs the rounds; its optimiser holds the adapter to start from.
        rounds: number of rounds to run from there.
        evaluate: called with the number of a round and its adapter, for public scores.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _: Context) -> None:
        arrays = strategy.layout.to_arrays(strategy.optimizer.adapter)
        limited = TimeLimitedGrid(grid, strategy.timeout)
        strategy.start(limited, arrays, num_rounds=rounds, evaluate_fn=evaluate)

    return app
