"""The dashboard Fleet: nodes, Ray's control plane, autoscaler and object store, and upgrades under way."""

from __future__ import annotations

from agent import telemetry as t
from cluster.monitoring.panels.dashboard import Dashboard, Need, Panel, Query, Row, Variable
from cluster.monitoring.promql import FLEET, SERVED, exported

_UP = f'up{{job="ray",{FLEET}}}'


def _panel(title: str, description: str, unit: str, *queries: tuple[str, str], needs: Need = "") -> Panel:
    return Panel(title, description, unit, tuple(Query(expr, legend, needs) for expr, legend in queries))


def _node(series: str, labels: str = "") -> str:
    return f"{series}{{{FLEET}{labels}}}"


_NODES = Row(
    "Nodes",
    (
        _panel(
            "Nodes",
            "Nodes that Ray counts as alive, starting and lately failed.",
            "short",
            (f"sum by (namespace) ({_node('ray_cluster_active_nodes')})", "{{namespace}} active"),
            (f"sum by (namespace) ({_node('autoscaler_pending_nodes')})", "{{namespace}} pending"),
            (
                f"sum by (namespace) ({_node('autoscaler_recently_failed_nodes')}) or 0 * sum by (namespace) ({_UP})",
                "{{namespace}} failed",
            ),
        ),
        _panel(
            "Endpoints answering",
            "Metrics endpoints of nodes, autoscaler and dashboard that Prometheus reaches, of those it knows.",
            "short",
            (f"sum by (namespace) ({_UP})", "{{namespace}} answering"),
            (f"count by (namespace) ({_UP})", "{{namespace}} known"),
        ),
        _panel(
            "CPU of nodes",
            "How busy the cores of each node are.",
            "percent",
            (_node("ray_node_cpu_utilization"), "{{ip}}"),
        ),
        _panel(
            "Memory of nodes",
            "Memory in use of what the node has; Ray kills workers above 95%.",
            "percentunit",
            (f"{_node('ray_node_mem_used')} / {_node('ray_node_mem_total')}", "{{ip}}"),
        ),
        _panel(
            "Disk of nodes",
            "Disk in use where Ray keeps its logs and spills objects.",
            "percent",
            (_node("ray_node_disk_utilization_percentage"), "{{ip}}"),
        ),
        _panel(
            "Network of nodes",
            "Bytes per second received and sent.",
            " bytes/s",
            (_node("ray_node_network_receive_speed"), "{{ip}} received"),
            (_node("ray_node_network_send_speed"), "{{ip}} sent"),
        ),
    ),
)

_CONTROL = Row(
    "Control plane",
    (
        _panel(
            "GCS alive",
            "Clusters whose global control store tells of itself: 1 for each.",
            "short",
            (f"count by (namespace) ({_node('ray_running_jobs', ',Component=`gcs_server`')})", "{{namespace}}"),
        ),
        _panel(
            "GCS event loop lag",
            "How late the control store's busiest event loop is.",
            " ms",
            (
                f"max by (namespace) ({_node('ray_io_context_event_loop_lag_ms', ',Component=`gcs_server`')})",
                "{{namespace}}",
            ),
        ),
        _panel(
            "GCS storage latency, p99",
            "Of reads and writes of the control store; with Redis behind it, Redis and the way there.",
            " ms",
            (
                "histogram_quantile(0.99, sum by (namespace, le) (rate("
                f"{_node('ray_gcs_storage_operation_latency_ms_bucket')}[$__rate_interval])))",
                "{{namespace}}",
            ),
        ),
        _panel(
            "Actors",
            "Actors by state; replicas, controllers and training workers are actors.",
            "short",
            (f"sum by (namespace, State) ({_node('ray_actors')})", "{{namespace}} {{State}}"),
        ),
        _panel(
            "Serve's control loop",
            "Seconds of a pass of Ray Serve's controller, which starts and stops replicas.",
            "s",
            (f"max by (namespace) ({_node('ray_serve_controller_control_loop_duration_s')})", "{{namespace}}"),
        ),
        _panel(
            "HAProxy processes",
            "One a node that serves; above that for a moment while a reload drains connections.",
            "short",
            (f"sum by (namespace) ({_node('ray_serve_haproxy_process_count')})", "{{namespace}}"),
        ),
    ),
)

_RESOURCES = Row(
    "Autoscaler and object store",
    (
        _panel(
            "CPUs of the cluster",
            "CPUs that the nodes have, and those of nodes that are on their way.",
            "short",
            (f"sum by (namespace) ({_node('autoscaler_cluster_resources', ',resource=`CPU`')})", "{{namespace}} there"),
            (
                f"sum by (namespace) ({_node('autoscaler_pending_resources', ',resource=`CPU`')})",
                "{{namespace}} pending",
            ),
        ),
        _panel(
            "CPUs taken",
            "CPUs that replicas and workers hold, of those that Ray hands out.",
            "short",
            (f"sum by (namespace) ({_node('ray_resources', ',Name=`CPU`,State=`USED`')})", "{{namespace}} taken"),
            (f"sum by (namespace) ({_node('ray_resources', ',Name=`CPU`')})", "{{namespace}} all"),
        ),
        _panel(
            "Autoscaler errors",
            "Nodes that could not be made and passes that failed, since it started.",
            "short",
            (f"sum by (namespace) ({_node('autoscaler_failed_create_nodes_total')})", "{{namespace}} nodes"),
            (f"sum by (namespace) ({_node('autoscaler_update_loop_exceptions_total')})", "{{namespace}} passes"),
        ),
        _panel(
            "Object store",
            "Shared memory taken, of what there is.",
            "percentunit",
            (
                f"sum by (namespace) ({_node('ray_object_store_used_memory')}) / sum by (namespace) "
                f"({_node('ray_object_store_used_memory')} + {_node('ray_object_store_available_memory')})",
                "{{namespace}}",
            ),
        ),
        _panel(
            "Spilled objects",
            "Bytes of objects that went to disk because the object store was full.",
            "bytes",
            (f"sum by (namespace) ({_node('ray_spill_manager_objects_bytes', ',State=`Spilled`')})", "{{namespace}}"),
        ),
        _panel(
            "Jobs",
            "Jobs under way; a served application is one.",
            "short",
            (f"sum by (namespace) ({_node('ray_running_jobs')})", "{{namespace}} running"),
        ),
    ),
)

_UPGRADES = Row(
    "Upgrades",
    (
        _panel(
            "Application status",
            "1 deploy failed, 2 unhealthy, 3 not started, 4 deleting, 5 deploying, 6 running.",
            "none",
            (f"min by (namespace, agent) (ray_serve_application_status{{{SERVED}}})", "{{namespace}} {{agent}}"),
        ),
        _panel(
            "Versions served",
            "Replicas by bundle over all agents: during a rollout two versions stand beside each other.",
            "short",
            (
                f'count by (namespace, agent, bundle) ({exported(t.INFO)}{{{SERVED},bundle=~"$version"}} == 1)',
                "{{namespace}} {{agent}} {{bundle}}",
            ),
        ),
        _panel(
            "Clusters of a service",
            "Ray clusters by owner; two of one RayService while it upgrades.",
            "short",
            (f"count by (namespace, owner_kind) (kuberay_cluster_info{{{FLEET}}})", "{{namespace}} {{owner_kind}}"),
            needs="operator",
        ),
        _panel(
            "Services ready",
            "1 where a RayService takes requests.",
            "short",
            (f'kuberay_service_condition_ready{{{FLEET},condition="true"}}', "{{namespace}} {{name}}"),
            needs="operator",
        ),
        _panel(
            "Upgrades under way",
            "1 while the operator moves a RayService to a new cluster.",
            "short",
            (f'kuberay_service_condition_upgrade_in_progress{{{FLEET},condition="true"}}', "{{namespace}} {{name}}"),
            needs="operator",
        ),
    ),
)

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
