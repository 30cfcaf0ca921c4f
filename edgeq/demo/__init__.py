"""A small real network and the inspection scenes it was trained on, so that everything runs with nothing downloaded."""
