"""The data packs behind the figures of the documents, made from the public repositories where they come from."""
