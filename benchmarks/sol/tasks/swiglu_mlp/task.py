import torch


def flops(axes):
    return {"bf16": 3 * 2 * axes["T"] * axes["D"] * axes["F"]}


def min_bytes(axes, inputs=None):
    T, D, F = axes["T"], axes["D"], axes["F"]
    return 2 * (2 * T * D + 3 * D * F)


def inputs(axes, device, distribution):
    T, D, F = axes["T"], axes["D"], axes["F"]
    x = torch.randn(T, D, device=device, dtype=torch.bfloat16).add_(0.1)
    w_gate, w_up = (
        torch.randn(F, D, device=device, dtype=torch.bfloat16).add_(0.1).mul_(1.5 * D**-0.5) for _ in range(2)
    )
    w_down = torch.randn(D, F, device=device, dtype=torch.bfloat16).add_(0.05).mul_(F**-0.5)
    if distribution == "outliers":
        x[:, D // 3] *= 20
        w_down[:, F // 3] *= 20
    return {"x": x, "w_gate": w_gate, "w_up": w_up, "w_down": w_down}
