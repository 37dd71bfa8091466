import sys

from distributed import Client, LocalCluster


def increment(x):
    return x + 1


if __name__ == "__main__":
    processes = sys.argv[2] == "processes"
    with LocalCluster(processes=processes, dashboard_address=None) as cluster, Client(cluster) as client:
        assert client.submit(increment, 1).result() == 2
