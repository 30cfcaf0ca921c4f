"""Every architecture that people bring, with drawn weights, through `inspect` and `prepare`."""
