"""Who does the work of labeling a folder: worker processes."""
