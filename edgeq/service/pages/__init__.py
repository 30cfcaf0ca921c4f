"""The pages of a service, for a browser: plain files, no build step, nothing from elsewhere."""
