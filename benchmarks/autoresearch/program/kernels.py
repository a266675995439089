"""Cross-entropy of softcapped logits, with its gradient, in one pass over the logits; in Triton on a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a machine without a GPU
    triton = None

WARPS = 16  # for 8,192 columns

if triton is not None:
    LOG2_E = tl.constexpr(1.4426950408889634)

    @triton.jit
    def _softcapped_rows(logits, targets, losses, columns, cap, scale, WIDE: tl.constexpr):
        """One program a row: its loss, and in place of its logits their gradient times `scale`."""
        row = tl.program_id(0).to(tl.int64)
        place = tl.arange(0, WIDE)
        there = place < columns
        z = tl.load(logits + row * columns + place, mask=there, other=0.0).to(tl.float32)
        bent = 1.0 - 2.0 / (1.0 + tl.exp2(z * (2.0 * LOG2_E / cap)))  # tanh(z / cap)
        target = tl.load(targets + row)
        # Capped logits lie within the cap, so that their exponentials need no maximum to be taken off first.
        weight = tl.where(there, tl.exp2(bent * (cap * LOG2_E)), 0.0)
        total = tl.sum(weight, 0)
        hit = place == target
        tl.store(losses + row, tl.log(total) - cap * tl.sum(tl.where(hit, bent, 0.0), 0))
        slope = (weight / total - tl.where(hit, 1.0, 0.0)) * (1.0 - bent * bent) * scale
        tl.store(logits + row * columns + place, slope.to(logits.dtype.element_ty), mask=there)


def fused(logits: Tensor, targets: Tensor, cap: float, scale: float) -> Tensor:
    """Losses [rows], float32; `logits` [rows, columns] then hold the gradient of scale x their sum. cap below 80."""
    rows, columns = logits.shape
    assert logits.is_contiguous() and targets.is_contiguous() and cap < 80
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    wide = triton.next_power_of_2(columns)
    warps = max(1, min(WARPS, wide // 512))
    _softcapped_rows[(rows,)](logits, targets, losses, columns, cap, scale, WIDE=wide, num_warps=warps)
    return losses


class _Fused(torch.autograd.Function):
    """The gradient is ready before it is asked for, so this must be the root of the graph: `loss.backward()`."""

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, cap: float) -> Tensor:
        losses = fused(logits, targets, cap, 1 / len(targets))
        ctx.save_for_backward(logits)
        return losses.mean()

    @staticmethod
    def backward(ctx, _: Tensor):
        return ctx.saved_tensors[0], None, None


def softcapped_cross_entropy(logits: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Mean cross-entropy of cap x tanh(logits / cap) [rows, columns]; on a GPU it uses up the logits."""
    if logits.is_cuda:
        return _Fused.apply(logits, targets, cap)
    return F.cross_entropy(cap * torch.tanh(logits / cap), targets.long())
