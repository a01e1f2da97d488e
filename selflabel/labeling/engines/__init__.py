"""Who does the work of labeling a folder: worker processes, or devices that these read and write files for."""
