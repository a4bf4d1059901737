"""All dashboards."""

from cluster.monitoring.fleet_panels import FLEET_BOARD
from cluster.monitoring.serving_panels import SERVING
from cluster.monitoring.training_panels import TRAINING

DASHBOARDS = (SERVING, TRAINING, FLEET_BOARD)
