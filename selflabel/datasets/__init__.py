"""Files: images, label files and their palette, probabilities, folders, and the demo's photographs.

Arrays of files are numpy's, images [h w c] float32 in [0, 1], labels [h w] uint8 with 255 = unlabeled; these modules do
without torch. Samples for training (`samples`, `square`, `augment`, `order`) are tensors, channels first.
"""
