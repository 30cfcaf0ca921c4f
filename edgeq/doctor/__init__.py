"""Is this machine able to? Each check is a small function that looks and gives a finding; nothing is changed."""
