"""Reports: what tells. A pure function of records."""
