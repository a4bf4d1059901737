"""The queue of a replica: admission, batches under a token budget, order of service, versions of the agent."""
