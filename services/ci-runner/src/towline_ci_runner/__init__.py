"""Stage 2: validates and tests a candidate in a sandbox, and says one verdict."""
