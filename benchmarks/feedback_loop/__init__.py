"""What collecting decisions costs, and how well a log of them judges."""
