"""The HTTP surface of agents that write: texts told token by token, conversations."""
