import torch


def run(x, w, ends):
    begins = [0, *ends.tolist()]
    return torch.cat([x[begin:end] @ of.T for begin, end, of in zip(begins, begins[1:], w)])
