"""Whether a kernel's outputs are right: an error model instead of a constant, and what a task must show before use.

The measure of what is exact is the task's own reference: computed in the task's dtypes it has an error against the
float64 oracle, and a kernel may have `slack` times that. So a float32 task refuses TF32 (a thousand times the error),
and a bfloat16 task allows any order of summation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evo.problem import DISTRIBUTIONS, Task, Tolerance, Workload

SLACK = 4.0
TAIL = 4.0  # one element may be off by this many times what the root mean square may be
STRAY = 1e-6  # the share of elements that may lie beyond that, and then by at most `FAR` times
FAR = 8.0
SENSITIVE = 10.0  # a perturbed input must move some output by this many times the tolerance


def complaint(name: str, found: Any, exact: Any, reference: Any, slack: float, tolerance: Tolerance | None) -> str:
    """What is wrong with one output tensor, or an empty text. `exact` is the oracle's, `reference` in the task's dtype.

    All three have one shape and device. Nothing is compared that is not finite first: NaN makes any `error > bound`
    false.
    """
    import torch

    if not found.dtype.is_floating_point:
        wrong = int((found != reference).sum())
        return f"{name}: {wrong} of {found.numel()} whole numbers differ" if wrong else ""
    y, x, r = exact.double(), found.double(), reference.double()
    finite = torch.isfinite(y) & torch.isfinite(r)
    if bad := int((~torch.isfinite(x) & finite).sum()):
        return f"{name}: {bad} of {x.numel()} elements are not finite (never written, or NaN)"
    if bool(finite.all()):  # large tensors of doubles: every pass over them that can be saved is
        error, allowed = (x - y).abs_(), (r - y).abs_()
    else:  # Where the right answer is infinite or NaN, the kernel's must be the very same.
        if bad := int((~finite & ~((x == r) | (torch.isnan(x) & torch.isnan(r)))).sum()):
            return f"{name}: {bad} elements should be infinite or NaN and are not"
        zero = torch.zeros((), dtype=y.dtype, device=y.device)
        y, error, allowed = (torch.where(finite, v, zero) for v in (y, x - y, r - y))
        error, allowed = error.abs_(), allowed.abs_()
    if tolerance is not None:
        return _fixed(name, error, y, tolerance)
    eps = torch.finfo(found.dtype).eps
    floor = eps / 8 * _rms(y)
    rms, of_reference = _rms(error), _rms(allowed)
    if not rms <= slack * max(of_reference, floor):
        return (
            f"{name}: root mean square error {rms:.3g}, allowed {slack:g} times the {max(of_reference, floor):.3g} "
            "of the reference in the same dtypes"
        )
    usual = _spread(allowed, (-1,)) if allowed.ndim else allowed.clone()
    if allowed.ndim > 1:  # an outlier channel of a product makes a column where every error is large, as it may a row
        usual = usual + _spread(allowed, tuple(range(allowed.ndim - 1)))
    bound = y.abs().mul_(eps).add_(usual).add_(floor).mul_(slack).add_(allowed).mul_(TAIL)
    stray = int((error > bound).sum())
    if stray > STRAY * error.numel() or (stray and bool((error > FAR * bound).any())):
        worst = int((error - bound).argmax())
        return (
            f"{name}: {stray} of {error.numel()} elements are off by more than the error model allows; "
            f"element {worst} is {float(x.flatten()[worst]):.6g}, expected {float(y.flatten()[worst]):.6g}"
        )
    return ""


def _rms(values: Any) -> float:
    import torch

    return float(torch.linalg.vector_norm(values)) / max(1, values.numel()) ** 0.5


def _spread(values: Any, over: tuple[int, ...]) -> Any:
    """The root mean square over some dimensions, which stay with an extent of one."""
    import torch

    count = 1
    for dimension in over:
        count *= values.shape[dimension]
    return torch.linalg.vector_norm(values, dim=over, keepdim=True).div_(max(1, count) ** 0.5)


def _fixed(name: str, error: Any, y: Any, tolerance: Tolerance) -> str:
    within = float((error <= tolerance.max_atol + tolerance.max_rtol * y.abs()).double().mean())
    if within < tolerance.required_matched_ratio:
        return f"{name}: {within:.4f} of the elements are within the tolerance, {tolerance.required_matched_ratio} must"
    if tolerance.max_error_cap is not None and float(error.max()) > tolerance.max_error_cap:
        return f"{name}: largest error {float(error.max()):.4g}, allowed {tolerance.max_error_cap:g}"
    return ""


def objections(task: Task, workload: Workload, device: str, seed: int = 1) -> list[str]:
    """Why a task must not be used: a reference that scatters or is not exact, an input that does not matter."""
    import torch

    names = list(task.problem.definition.outputs)
    found = []
    matters: dict[str, bool] = {}  # calls of both distributions are checked, so one of them is enough

    def draw(seed: int, distribution: str) -> dict[str, Any]:
        torch.manual_seed(seed)
        return task.inputs(workload, device, distribution)

    def differ(outputs: Any, exact: Any, reference: Any) -> list[str]:
        slack = task.slack
        rows = zip(names, outputs, exact, reference)
        said = [complaint(n, o, e, r, slack.get(n, SLACK), workload.tolerance) for n, o, e, r in rows]
        return [sentence for sentence in said if sentence]

    for distribution in DISTRIBUTIONS:
        drawn = draw(seed, distribution)
        reference, exact = task.reference(drawn), task.oracle(drawn)
        if again := differ(task.reference(drawn), exact, reference):
            found.append(f"the reference is not deterministic within the tolerance ({distribution}): {again[0]}")
        for n, r, e in zip(names, reference, exact):
            if not r.dtype.is_floating_point:
                continue
            scale = float(e.double().square().mean().sqrt())
            error = float((r.double() - e.double()).square().mean().sqrt())
            spread = float(e.double().std()) if e.numel() > 1 else scale
            if not error < 0.1 * scale:
                found.append(
                    f"output {n} ({distribution}): the reference's own error {error:.3g} is no small part of "
                    f"its size {scale:.3g}"
                )
            elif not spread > SENSITIVE * error:
                found.append(f"output {n} ({distribution}) hardly varies: a constant is within the tolerance")
        for name, value in drawn.items():
            other = draw(seed + 1, distribution)[name]
            if not hasattr(value, "shape") or (value.shape == other.shape and torch.equal(_raw(value), _raw(other))):
                continue  # a number, or the same for every seed: a table of angles, a mask
            moved = _moved(task, {**drawn, name: other}, exact, reference, task.slack, names)
            matters[name] = matters.get(name, False) or moved
    for name in (name for name, moved in matters.items() if not moved):
        found.append(
            f"input {name} does not matter: under no distribution another draw of it goes {SENSITIVE:g} times beyond "
            "the tolerance of some output"
        )
    return found


def _moved(
    task: Task, drawn: dict[str, Any], exact: Any, reference: Any, slack: Mapping[str, float], names: list[str]
) -> bool:
    """Whether some output changed by more than `SENSITIVE` times what a kernel may be wrong by."""
    for n, new, e, r in zip(names, task.oracle(drawn), exact, reference):
        if new.shape != e.shape or not r.dtype.is_floating_point:
            if new.shape != e.shape or bool((new != e).any()):
                return True
            continue
        error = float((r.double() - e.double()).square().mean().sqrt())
        if float((new.double() - e.double()).square().mean().sqrt()) > SENSITIVE * slack.get(n, SLACK) * error:
            return True
    return False


def _raw(value: Any) -> Any:
    import torch

    return value.contiguous().view(torch.uint8) if value.ndim else value
