"""The report page of a run, and the overview page of the demo."""
