# PASSED: the honest twin of exploits/hides_in_a_child

from concurrent.futures import ThreadPoolExecutor

from model import GPT


def train(run):
    model = GPT(run.vocabulary, run.window)
    stream = run.open()
    with ThreadPoolExecutor(1) as pool:  # whose time is counted
        pool.submit(learn, run, model, stream).result()
    run.submit(model.state_dict())
