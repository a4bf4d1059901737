"""The dashboard Fleet: nodes, Ray's control plane, autoscaler and object store, and upgrades."""

from __future__ import annotations

from agent import telemetry as t
from cluster.monitoring.panels.dashboard import Dashboard, Row, Variable, panel
from cluster.monitoring.promql import FLEET, SERVED, exported

_UP = f'up{{job="ray",{FLEET}}}'
_GCS = ",Component=`gcs_server`"


def _node(series: str, labels: str = "") -> str:
    return f"{series}{{{FLEET}{labels}}}"


def _by_namespace(function: str, series: str, labels: str = "") -> str:
    return f"{function} by (namespace) ({_node(series, labels)})"


def _sum(series: str, labels: str = "") -> str:
    return _by_namespace("sum", series, labels)


# fmt: off
_NODES = Row("Nodes", (
    panel(
        "Nodes", "short", "Nodes that Ray counts as alive, starting and lately failed.",
        (_sum("ray_cluster_active_nodes"), "{{namespace}} active"),
        (_sum("autoscaler_pending_nodes"), "{{namespace}} pending"),
        (f"{_sum('autoscaler_recently_failed_nodes')} or 0 * sum by (namespace) ({_UP})", "{{namespace}} failed"),
    ),
    panel(
        "Endpoints answering", "short",
        "Metrics endpoints of nodes, autoscaler and dashboard that Prometheus reaches, of those it knows.",
        (f"sum by (namespace) ({_UP})", "{{namespace}} answering"),
        (f"count by (namespace) ({_UP})", "{{namespace}} known"),
    ),
    panel("CPU of nodes", "percent", "How busy the cores of each node are.", (_node("ray_node_cpu_utilization"), "{{ip}}")),
    panel(
        "Memory of nodes", "percentunit", "Memory in use of what the node has; Ray kills workers above 95%.",
        (f"{_node('ray_node_mem_used')} / {_node('ray_node_mem_total')}", "{{ip}}"),
    ),
    panel(
        "Disk of nodes", "percent", "Disk in use where Ray keeps its logs and spills objects.",
        (_node("ray_node_disk_utilization_percentage"), "{{ip}}"),
    ),
    panel(
        "Network of nodes", " bytes/s", "Bytes per second received and sent.",
        (_node("ray_node_network_receive_speed"), "{{ip}} received"),
        (_node("ray_node_network_send_speed"), "{{ip}} sent"),
    ),
))

_CONTROL = Row("Control plane", (
    panel(
        "GCS alive", "short", "Clusters whose global control store tells of itself: 1 for each.",
        (_by_namespace("count", "ray_running_jobs", _GCS), "{{namespace}}"),
    ),
    panel(
        "GCS event loop lag", " ms", "How late the control store's busiest event loop is.",
        (_by_namespace("max", "ray_io_context_event_loop_lag_ms", _GCS), "{{namespace}}"),
    ),
    panel(
        "GCS storage latency, p99", " ms",
        "Of reads and writes of the control store; with Redis behind it, Redis and the way there.",
        ("histogram_quantile(0.99, sum by (namespace, le) (rate("
         f"{_node('ray_gcs_storage_operation_latency_ms_bucket')}[$__rate_interval])))", "{{namespace}}"),
    ),
    panel(
        "Actors", "short", "Actors by state; replicas, controllers and training workers are actors.",
        (f"sum by (namespace, State) ({_node('ray_actors')})", "{{namespace}} {{State}}"),
    ),
    panel(
        "Serve's control loop", "s", "Seconds of a pass of Ray Serve's controller, which starts and stops replicas.",
        (_by_namespace("max", "ray_serve_controller_control_loop_duration_s"), "{{namespace}}"),
    ),
    panel(
        "HAProxy connections", "short", "Connections that HAProxy holds on all nodes, idle ones too; of its newest process during a reload.",
        (_sum("haproxy_process_current_connections"), "{{namespace}}"),
    ),
))

_RESOURCES = Row("Autoscaler and object store", (
    panel(
        "CPUs of the cluster", "short", "CPUs that the nodes have, and those of nodes that are on their way.",
        (_sum("autoscaler_cluster_resources", ",resource=`CPU`"), "{{namespace}} there"),
        (_sum("autoscaler_pending_resources", ",resource=`CPU`"), "{{namespace}} pending"),
    ),
    panel(
        "CPUs taken", "short", "CPUs that replicas and workers hold, of those that Ray hands out.",
        (_sum("ray_resources", ",Name=`CPU`,State=`USED`"), "{{namespace}} taken"),
        (_sum("ray_resources", ",Name=`CPU`"), "{{namespace}} all"),
    ),
    panel(
        "Autoscaler errors", "short", "Nodes that could not be made and passes that failed, since it started.",
        (_sum("autoscaler_failed_create_nodes_total"), "{{namespace}} nodes"),
        (_sum("autoscaler_update_loop_exceptions_total"), "{{namespace}} passes"),
    ),
    panel(
        "Object store", "percentunit", "Shared memory taken, of what there is.",
        (f"{_sum('ray_object_store_used_memory')} / sum by (namespace) "
         f"({_node('ray_object_store_used_memory')} + {_node('ray_object_store_available_memory')})", "{{namespace}}"),
    ),
    panel(
        "Spilled objects", "bytes", "Bytes of objects that went to disk because the object store was full.",
        (_sum("ray_spill_manager_objects_bytes", ",State=`Spilled`"), "{{namespace}}"),
    ),
    panel(
        "Jobs", "short", "Jobs under way; a served application is one.",
        (_sum("ray_running_jobs"), "{{namespace}} running"),
    ),
))

_UPGRADES = Row("Upgrades", (
    panel(
        "Application status", "none", "1 deploy failed, 2 unhealthy, 3 not started, 4 deleting, 5 deploying, 6 running.",
        (f"min by (namespace, agent) (ray_serve_application_status{{{SERVED}}})", "{{namespace}} {{agent}}"),
    ),
    panel(
        "Versions served", "short",
        "Replicas by bundle over all agents: during a rollout two versions stand beside each other.",
        (f'count by (namespace, agent, bundle) ({exported(t.INFO)}{{{SERVED},bundle=~"$version"}} == 1)',
         "{{namespace}} {{agent}} {{bundle}}"),
    ),
    panel(
        "Clusters of a service", "short", "Ray clusters by owner; two of one RayService while it upgrades.",
        (f"count by (namespace, owner_kind) (kuberay_cluster_info{{{FLEET}}})", "{{namespace}} {{owner_kind}}"),
        needs="operator",
    ),
    panel(
        "Services ready", "short", "1 where a RayService takes requests.",
        (f'kuberay_service_condition_ready{{{FLEET},condition="true"}}', "{{namespace}} {{name}}"), needs="operator",
    ),
    panel(
        "Upgrades under way", "short", "1 while the operator moves a RayService to a new cluster.",
        (f'kuberay_service_condition_upgrade_in_progress{{{FLEET},condition="true"}}', "{{namespace}} {{name}}"),
        needs="operator",
    ),
))
# fmt: on

FLEET_BOARD = Dashboard(
    "bert-agent-fleet",
    "bert-agent / Fleet",
    "Nodes, Ray's control plane, autoscaler and object store, and upgrades under way.",
    (_NODES, _CONTROL, _RESOURCES, _UPGRADES),
    (
        Variable("namespace", 'up{job="ray"}', "namespace", "Namespace"),
        Variable("agent", 'ray_serve_application_status{namespace=~"$namespace"}', "agent", "Agent"),
        Variable("version", f"{exported(t.INFO)}{{{SERVED}}}", "bundle", "Version"),
    ),
)
