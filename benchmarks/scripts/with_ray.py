import ray


@ray.remote
def increment(x):
    return x + 1


ray.init(include_dashboard=False, log_to_driver=False)
assert ray.get(increment.remote(1)) == 2
ray.shutdown()
