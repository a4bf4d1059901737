"""The list of all dashboards."""

from cluster.monitoring.panels.fleet_panels import FLEET_BOARD
from cluster.monitoring.panels.serving_panels import SERVING
from cluster.monitoring.panels.training_panels import TRAINING

DASHBOARDS = (SERVING, TRAINING, FLEET_BOARD)
