"""Labeling images: one (`one`, `image`) or a folder of them (`folder`).

`plan` says which files belong together, `settings` and `labeler` how they are labeled, `presets` the defaults of each
solver; `engines` do the work, `outputs` and `manifest` are what is written. Nothing here prints.
"""
