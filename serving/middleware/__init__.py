"""What surrounds the routes: API keys, CORS, access log, traces, JSON refusals."""
