"""The data of a round: the original labelled data, and what is taught beside it."""
