"""One candidate on trial, from its first law to what is known of it, without pytest."""
