"""Other packages' interfaces on our filters: their scripts run after a change of the import."""
