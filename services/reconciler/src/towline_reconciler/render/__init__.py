"""Files of a revision → objects, in a jailed child that holds no credential and has no network."""
