"""A page in the browser on which a run can be watched while it trains; only commands import it."""
