"""`python -m tests.serving.ray_serve.two_nodes BUNDLE PORT`: an agent on a cluster of two raylets, which obeys lines on its standard input.

`lose` kills the second raylet, `join` starts another one, `shrink` lets autoscaling take a replica away; each is answered by
`done`. A process of its own, because HAProxy is switched on before Ray Serve is imported.
"""

from __future__ import annotations

import sys

from serving.ray_serve.app_config import AppConfig, LimitsConfig, ReplicaConfig
from serving.ray_serve.haproxy import own_haproxy

QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


def main(bundle: str, port: int) -> None:
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from serving.app import application

    def deploy(min_replicas: int) -> None:
        replicas = ReplicaConfig(
            num_cpus=1, min_replicas=min_replicas, max_replicas=2, upscale_delay_s=0, downscale_delay_s=1
        )
        serve.run(application(AppConfig(bundle=bundle, replicas=replicas)))

    # The head has a core of its own, so that one replica each fits on both nodes.
    cluster = Cluster(
        initialize_head=True,
        connect=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK},
    )
    try:
        second = cluster.add_node(num_cpus=1)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        deploy(2)
        for line in _orders():
            if line == "lose":
                cluster.remove_node(second, allow_graceful=False)
            elif line == "join":
                second = cluster.add_node(num_cpus=1)
            elif line == "shrink":
                deploy(1)
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


def _orders():
    print("done", flush=True)
    for line in sys.stdin:
        yield line.strip()
        print("done", flush=True)


if __name__ == "__main__":
    with own_haproxy(max_message_bytes=LimitsConfig().max_body_bytes):
        main(sys.argv[1], int(sys.argv[2]))
