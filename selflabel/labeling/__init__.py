"""Labeling folders of images: what to do (`plan`), how (`engine`, `settings`), doing it (`folder`, `pool`),
and what was done (`manifest`). Nothing here prints: `label_folder` is an iterator of outcomes.
"""
