"""Records of any format in one form: which tags, which offsets, which spans a task can be taught."""
