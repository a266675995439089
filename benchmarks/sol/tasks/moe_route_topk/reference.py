def run(logits, bias, k):
    score = logits.float().sigmoid()
    expert = (score + bias).topk(k).indices
    weight = score.gather(1, expert)
    return weight / weight.sum(-1, keepdim=True), expert.int()
