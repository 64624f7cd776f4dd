"""A page in the browser on which a run can be watched while it trains; nothing but the commands imports it."""
