def run(rows, index, weight):
    return (rows[index] * weight[..., None]).sum(1).to(rows.dtype)
