"""What is on disk: images, label files, predictions, folders. numpy only, no torch."""
