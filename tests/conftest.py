"""Small machines: one thread a test process, whose many tiny kernels gain nothing from more."""

import torch

torch.set_num_threads(1)
