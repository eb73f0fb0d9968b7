"""One file per channel, behind the protocol in `port`; `table` makes them from settings."""
