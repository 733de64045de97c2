"""Switches off what other libraries print or send: telemetry, progress bars, repeated notices."""

from __future__ import annotations

import getpass
import logging
import os
import warnings
from pathlib import Path

_VARIABLES = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads cost more than they win
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # it would install the project anew for every process
    "WANDB_SILENT": "true",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


# What is there for other machines, and notices of one library to another, while they are imported.
_QUIET = ("torchao", "bitsandbytes", "torch.utils._pytree")


def environment() -> None:
    """Set the variables that libraries read when they are imported; existing values stay."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user, whom no table lists
        os.environ["LOGNAME"] = f"user-{os.getuid()}"  # libraries name folders by it
    _library_cache()


def _library_cache() -> None:
    """Give the libraries of Hugging Face folders in our cache, where they have none they can write.

    They make some even where they store nothing. A folder that is there stays in use to read from.
    """
    ours, usual = os.environ.get("USERDP_CACHE"), os.path.expanduser("~/.cache")
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or usual, "huggingface"
    )
    if ours is None or _can_be_made(Path(home, "datasets")):
        return
    os.environ.setdefault("HF_DATASETS_CACHE", str(Path(ours, "huggingface", "datasets")))
    if not Path(home).is_dir():
        os.environ["HF_HOME"] = str(Path(ours, "huggingface"))


def _can_be_made(folder: Path) -> bool:
    """Whether a folder can be written, or made; not so where ``~`` stands for no folder."""
    if not folder.is_absolute():
        return False
    nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def accountants() -> None:
    """Silence two libraries that report omitted Renyi orders; the bounds stay valid without."""
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="opacus")


def libraries() -> None:
    """Silence progress bars of short steps, Flower's log of rounds, and notices of no use here."""
    import transformers

    accountants()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in ("flwr", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
