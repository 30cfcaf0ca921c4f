"""A bundle told to people: one HTML page, or Markdown; two bundles beside each other; the model card in each bundle."""
