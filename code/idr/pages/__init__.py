"""Pages that open without network: tables, pictures and figures to turn about, all in one file."""
