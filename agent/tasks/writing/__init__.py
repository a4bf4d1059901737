"""Tasks that write: texts from texts (translation, summaries) and texts that go on (prompts, dialogues)."""
