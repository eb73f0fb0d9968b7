"""The cluster's API: login, raw JSON requests, which kinds there are, and watches that survive everything."""
