import torch


def run(x, w, ends):
    if x.is_cuda and x.dtype == torch.bfloat16:
        return torch._grouped_mm(x, w.mT, offs=ends)
    begins = [0, *ends.tolist()]
    return torch.cat([x[begin:end] @ of.T for begin, end, of in zip(begins, begins[1:], w)])
