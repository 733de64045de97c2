"""The Flower ServerApp: hands a strategy the grid and the first adapter."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from userdp.server.strategy import PrivateStrategy

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


def server_app(strategy: PrivateStrategy, rounds: int, evaluate: EvaluateFn) -> ServerApp:
    """Run ``rounds`` more rounds of the strategy from the adapter its optimiser holds."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _: Context) -> None:
        arrays = strategy.layout.to_arrays(strategy.optimizer.adapter)
        strategy.start(grid, arrays, num_rounds=rounds, evaluate_fn=evaluate)

    return app
