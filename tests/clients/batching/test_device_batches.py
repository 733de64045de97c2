"""Prefetching keeps the order of batches and raises errors; delaying requests one item ahead."""

from __future__ import annotations

import threading

import pytest
import torch

from userdp.clients.batching import device_batches


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_prefetch_keeps_the_order_raises_errors_and_works_in_a_thread_for_a_gpu_only(kind):
    device, threads = torch.device(kind), set()

    def make(item):
        threads.add(threading.get_ident())
        if item == 7:
            raise ValueError("seven")
        return 10 * item

    assert list(device_batches.prefetch(range(5), make, device)) == [0, 10, 20, 30, 40]
    assert (threading.get_ident() in threads) == (kind == "cpu")
    with pytest.raises(ValueError, match="seven"):
        list(device_batches.prefetch(range(9), make, device))


def test_delay_by_one_requests_the_next_item_before_it_hands_out_one():
    requested = []
    items = device_batches.delay_by_one(requested.append(n) or n for n in range(4))
    assert [(n, len(requested)) for n in items] == [(0, 2), (1, 3), (2, 4), (3, 4)]
