"""Files: images, label files and their palette, probabilities, folders, and the demo's photographs.

Arrays here are numpy's, images [h w c] float32 in [0, 1], labels [h w] uint8 with 255 = unlabeled. Nothing in
this package needs torch.
"""
