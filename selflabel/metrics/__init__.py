"""Scores of label maps: confusion counts, IoU, Dice, Hausdorff distance; folders of them. No torch here."""
