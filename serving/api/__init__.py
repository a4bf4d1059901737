"""HTTP routes and request bodies: Hugging Face's shape, streams, the Open Inference Protocol, health, the web page."""
