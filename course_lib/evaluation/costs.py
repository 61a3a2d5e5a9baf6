"""What a computation costs, whatever the machine: floating-point operations."""

from __future__ import annotations

from collections.abc import Callable


def operations(run: Callable[[], object]) -> int:
    """The floating-point operations of one call of `run`, those of the backward pass too if it makes one.

    PyTorch's own counter, which on a CPU does not know fused attention by name: its two products are counted here as
    on a GPU. Additions and nonlinearities are not counted, as usual.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query, key, value, *rest, **options):
        return sdpa_flop_count(query, key, value)

    def backward(grad, query, key, value, *rest, **options):
        return sdpa_backward_flop_count(grad, query, key, value)

    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        run()
    return counter.get_total_flops()
